//! A judge that is a generator: our own engine with a local model, or a script in tests.

use super::{Judge, JudgePrompt, MAX_JUDGE_TOKENS};
use crate::engine::{Request, SamplingParams};
use crate::eval::{EvalError, Generator};

/// What a prompt is for the model: the token ids of its text under the model's chat template.
type Encode<'a> = Box<dyn Fn(&JudgePrompt) -> Result<Vec<u32>, String> + 'a>;

/// Asks a generator, greedily and for [`MAX_JUDGE_TOKENS`] tokens.
pub struct GeneratorJudge<'a> {
    generator: &'a mut dyn Generator,
    encode: Encode<'a>,
    stop_token_ids: Vec<u32>,
}

impl<'a> GeneratorJudge<'a> {
    /// A judge whose answers end with one of `stop_token_ids`.
    pub fn new(
        generator: &'a mut dyn Generator,
        encode: Encode<'a>,
        stop_token_ids: Vec<u32>,
    ) -> Self {
        Self {
            generator,
            encode,
            stop_token_ids,
        }
    }

    fn request(&self, index: usize, prompt: &JudgePrompt) -> Result<Request, EvalError> {
        let encoded = (self.encode)(prompt);
        Ok(Request {
            id: index as u64,
            prompt_token_ids: encoded.map_err(|problem| EvalError::Judge { problem })?,
            params: SamplingParams {
                max_gen_toks: MAX_JUDGE_TOKENS,
                temperature: 0.0,
                stop_token_ids: self.stop_token_ids.clone(),
                ..SamplingParams::default()
            },
        })
    }
}

impl Judge for GeneratorJudge<'_> {
    /// A question that is too long for the model gets an empty reply, which is no verdict.
    fn ask(
        &mut self,
        prompts: &[JudgePrompt],
        settle: &mut (dyn FnMut(usize, String) -> Result<(), EvalError> + Send),
    ) -> Result<(), EvalError> {
        for (index, prompt) in prompts.iter().enumerate() {
            let request = self.request(index, prompt)?;
            match self.generator.check(&request) {
                Ok(_) => self.generator.submit(request)?,
                Err(_) => settle(index, String::new())?,
            }
        }
        while !self.generator.is_idle() {
            for answer in self.generator.step()? {
                settle(answer.request_id as usize, answer.text)?;
            }
        }
        Ok(())
    }
}

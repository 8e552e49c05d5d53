//! Task definitions: YAML, data sources, prompts, few-shot examples, chat templates.

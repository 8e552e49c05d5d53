#!/bin/sh
# MiCoTA's chain in miniature, on the demo model: base -> long-CoT teacher -> DARE merges over a
# sweep of weights -> solutions of each, graded and filtered -> a student trained on them ->
# accuracy and chain length of everything. Every number of the table is measured here and now; at
# this size it shows the tools at work and supports no claim about real models.
#
#   MICOTA=target/release/micota configs/recipe/mini.sh [FOLDER]
#
# Run it from the root of the repository. Started again, it goes on where it was.
set -eu

micota=${MICOTA:-target/release/micota}
out=${1:-target/recipe}
base=demo/model
weights='0.3 0.5 0.7'
prefix='Solve the following math problem. Present the final answer in the format: Final Answer: \boxed{your_answer}.\nProblem: '
mkdir -p "$out"

say() { printf '%s\n' "$*" >&2; }

# Problems: to measure on (those that the demo's base was never trained on, tasks/demo-arith), for
# the teacher, and for the students; what is measured on is never trained on.
synth() { "$micota" data synth --levels 1,2,3 --prefix "$prefix" --suffix '\nAnswer:' "$@"; }
synth --count 200 --seed 2 --out "$out/test.jsonl"
synth --count 6000 --seed 13 --long --exclude "$out/test.jsonl" --out "$out/long.jsonl"
synth --count 300 --seed 14 --exclude "$out/test.jsonl" --out "$out/problems.jsonl"

# NAME MODEL DATA RATE STEPS: fine-tunes a model and leaves it in $out/NAME.
tune() {
    [ -f "$out/$1/all_results.json" ] && return
    say "training $1"
    cat > "$out/$1.yaml" <<RECIPE
model_name_or_path: $2
stage: sft
finetuning_type: full
dataset: $3
template: qwen3_nothink
cutoff_len: 512
output_dir: $out/$1
logging_steps: 50
save_steps: 100
save_total_limit: 1
per_device_train_batch_size: 16
learning_rate: $4
max_steps: $5
lr_scheduler_type: cosine
warmup_steps: 10
weight_decay: 0.01
adam_beta2: 0.98
disable_gradient_checkpointing: true
RECIPE
    "$micota" train "$out/$1.yaml" > /dev/null
}

# NAME MODEL: solves the test problems, once each, and notes what came out.
measure() {
    "$micota" data make --problems "$out/test.jsonl" --problem-column instruction --suffix '' \
        --model "$2" --max_gen_toks 400 --dtype f32 --accept any --keep-unfinished \
        --out "$out/measured-$1.json" > /dev/null
}

tune teacher "$base" "$out/long.jsonl" 1.0e-3 250
for weight in $weights; do
    cat > "$out/merge-$weight.yml" <<RECIPE
merge_method: dare_linear
base_model: $base
models:
  - model: $out/teacher
    parameters: {weight: $weight, density: 0.5}
dtype: float32
RECIPE
    [ -d "$out/merge-$weight" ] || "$micota" merge --quiet --random-seed 1 "$out/merge-$weight.yml" "$out/merge-$weight"
done

# Each of them teaches a student, which begins as the base.
for name in teacher $(for weight in $weights; do echo "merge-$weight"; done); do
    say "solutions of $name"
    "$micota" data make --problems "$out/problems.jsonl" --problem-column instruction --suffix '' \
        --model "$out/$name" --max_gen_toks 400 --dtype f32 --out "$out/data-$name.json" >&2
    measure "$name" "$out/$name"
    # A teacher that solved next to nothing has nothing to teach.
    if [ "$(grep -c '"instruction"' "$out/data-$name.json")" -ge 30 ]; then
        tune "student-of-$name" "$base" "$out/data-$name.json" 3.0e-4 60
        measure "student-of-$name" "$out/student-of-$name"
    else
        say "$name solved fewer than 30 of 300 problems; it gets no student"
    fi
done
measure base "$base"

# The table: NAME, how many of how many are right with a 95% interval (Wilson), and the mean number
# of tokens of a solution, right or wrong.
number() { sed -n "s/^ *\"$2\": *\([0-9.]*\),*\$/\1/p" "$1" | head -n 1; }
printf '| %-22s | %7s | %5s | %-12s | %12s |\n' model right '%' '95% interval' 'mean tokens'
printf '|%s|%s|%s|%s|%s|\n' ------------------------ --------: ------: -------------- -------------:
for name in base teacher $(for weight in $weights; do echo "merge-$weight"; done) \
    student-of-teacher $(for weight in $weights; do echo "student-of-merge-$weight"; done); do
    file=$out/measured-$name.json.stats.json
    [ -f "$file" ] || continue
    awk -v name="$name" -v right="$(number "$file" symbolic_correct)" \
        -v all="$(number "$file" samples)" -v tokens="$(number "$file" mean)" 'BEGIN {
            z = 1.959964
            share = right / all
            centre = (share + z * z / (2 * all)) / (1 + z * z / all)
            half = z / (1 + z * z / all) * sqrt(share * (1 - share) / all + z * z / (4 * all * all))
            printf "| %-22s | %3d/%-3d | %5.1f | %4.1f to %4.1f | %12.1f |\n", name, right, all,
                100 * share, 100 * (centre - half), 100 * (centre + half), tokens
        }'
done

# The record names the weights: the model's configuration may say the same as before of other ones, and Snakemake compares what
# small files say.
rule evaluate_model:
    input:
        model="results/{experiment}/hf/config.json",
        record="results/{experiment}/hf/export.json",
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
        job=evaluated_job("results/{experiment}/evaluation/metrics.json"),
    output:
        metrics=report(
            "results/{experiment}/evaluation/metrics.json",
            caption="../report/metrics.rst",
            category="Metrics",
            labels={"experiment": "{experiment}"},
        ),
        predictions="results/{experiment}/evaluation/predictions.parquet",
        headline="results/{experiment}/evaluation/headline.json",
        curve="results/{experiment}/evaluation/curve.csv",
    log:
        "results/logs/evaluate/{experiment}.log",
    benchmark:
        "results/benchmarks/evaluate/{experiment}.tsv"
    # One core: a second one makes it 1.3 times as fast, and can evaluate the learning curve meanwhile.
    threads: 1
    resources:
        mem_mb=3000,
        runtime="6h",
    params:
        options=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation,
    message:
        "evaluating {wildcards.experiment}"
    shell:
        "lt25 evaluate {wildcards.experiment:q} 2>&1 | tee {log:q}"


rule evaluate_step:
    input:
        model="results/{experiment}/hf/step-{step}/config.json",
        record="results/{experiment}/hf/step-{step}/export.json",
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
        job=evaluated_job("results/{experiment}/evaluation/step-{step}/metrics.json"),
    output:
        metrics="results/{experiment}/evaluation/step-{step}/metrics.json",
        predictions="results/{experiment}/evaluation/step-{step}/predictions.parquet",
    log:
        "results/logs/evaluate/{experiment}-step-{step}.log",
    benchmark:
        "results/benchmarks/evaluate/{experiment}-step-{step}.tsv"
    resources:
        mem_mb=3000,
        runtime="6h",
    params:
        options=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation,
    message:
        "evaluating step {wildcards.step} of {wildcards.experiment}"
    shell:
        "lt25 evaluate {wildcards.experiment:q} --step {wildcards.step:q} 2>&1 | tee {log:q}"


# All steps of the learning curve in one process, which imports torch once. Which steps they are, wildcards cannot say: the output
# has the numbers of all.
rule evaluate_curve:
    input:
        "results/{experiment}/train.json",
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
        job=evaluated_job("results/{experiment}/evaluation/steps.json"),
    output:
        "results/{experiment}/evaluation/steps.json",
    log:
        "results/logs/evaluate/{experiment}-curve.log",
    benchmark:
        "results/benchmarks/evaluate/{experiment}-curve.tsv"
    resources:
        mem_mb=3000,
        runtime="6h",
    params:
        options=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation,
    message:
        "exporting and evaluating the kept steps of {wildcards.experiment}"
    shell:
        "lt25 evaluate {wildcards.experiment:q} --export --kept 2>&1 | tee {log:q}"

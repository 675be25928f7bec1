rule evaluate_model:
    input:
        model="results/{experiment}/hf/config.json",
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
    output:
        metrics=report(
            "results/{experiment}/evaluation/metrics.json",
            caption="../report/metrics.rst",
            category="Metrics",
            labels={"experiment": "{experiment}"},
        ),
        predictions="results/{experiment}/evaluation/predictions.parquet",
    log:
        "results/logs/evaluate/{experiment}.log",
    benchmark:
        "results/benchmarks/evaluate/{experiment}.tsv"
    threads: 2
    resources:
        mem_mb=3000,
        runtime="6h",
    params:
        options=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation,
    message:
        "evaluating {wildcards.experiment}"
    shell:
        "lt25 evaluate {wildcards.experiment} 2>&1 | tee {log}"


rule evaluate_step:
    input:
        model="results/{experiment}/hf/step-{step}/config.json",
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
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
        "lt25 evaluate {wildcards.experiment} --step {wildcards.step} 2>&1 | tee {log}"

rule export_model:
    input:
        "results/{experiment}/train.json",
        exported_job,
    output:
        config="results/{experiment}/hf/config.json",
        record="results/{experiment}/hf/export.json",
        card=report(
            "results/{experiment}/hf/README.md",
            caption="../report/model_card.rst",
            category="Models",
            labels={"experiment": "{experiment}"},
        ),
    log:
        "results/logs/export/{experiment}.log",
    benchmark:
        "results/benchmarks/export/{experiment}.tsv"
    resources:
        mem_mb=2000,
        runtime="1h",
    message:
        "exporting {wildcards.experiment} to results/{wildcards.experiment}/hf"
    shell:
        "lt25 export {wildcards.experiment:q} 2>&1 | tee {log:q}"


rule export_step:
    input:
        "results/{experiment}/train.json",
    output:
        config="results/{experiment}/hf/step-{step}/config.json",
        record="results/{experiment}/hf/step-{step}/export.json",
    log:
        "results/logs/export/{experiment}-step-{step}.log",
    benchmark:
        "results/benchmarks/export/{experiment}-step-{step}.tsv"
    resources:
        mem_mb=2000,
        runtime="1h",
    message:
        "exporting step {wildcards.step} of {wildcards.experiment}"
    shell:
        "lt25 export {wildcards.experiment:q} --step {wildcards.step:q} 2>&1 | tee {log:q}"

rule download_dataset:
    input:
        changed_source,
    output:
        "data/raw/{dataset}/SOURCE.json",
    log:
        "results/logs/download/{dataset}.log",
    benchmark:
        "results/benchmarks/download/{dataset}.tsv"
    retries: 2
    threads: 1
    resources:
        mem_mb=2000,
        runtime="6h",
    message:
        "fetching the dataset {wildcards.dataset}"
    shell:
        "lt25 download {wildcards.dataset:q} 2>&1 | tee {log:q}"


rule prepare_data:
    input:
        lambda wildcards: [f"data/raw/{dataset.name}/SOURCE.json" for dataset in preparing(wildcards).datasets],
    output:
        "data/processed/{dataset}/{preparation}/stats.json",
    log:
        "results/logs/prepare/{dataset}-{preparation}.log",
    benchmark:
        "results/benchmarks/prepare/{dataset}-{preparation}.tsv"
    # Those that prepare on all cores that they get.
    threads: lambda wildcards: 16 if preparing(wildcards).task in ("language_modeling", "speech_recognition") else 1
    resources:
        mem_mb=4000,
        runtime="6h",
    params:
        # Which of those that share the data prepares it decides nothing: what is told the output too is no reason to run again.
        experiment=lambda wildcards, output: preparing(wildcards).name,
    message:
        "preparing {wildcards.dataset} ({wildcards.preparation})"
    shell:
        "lt25 prepare {params.experiment:q} 2>&1 | tee {log:q}"

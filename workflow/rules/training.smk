# A second's work that is not worth the wait for a node of a cluster.
localrules:
    configure_job,
    choose_runs,


rule configure_job:
    input:
        experiment=experiment_file,
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
    output:
        job="results/{experiment}/job.toml",
        model="results/{experiment}/model/config.json",
    log:
        "results/logs/configure/{experiment}.log",
    benchmark:
        "results/benchmarks/configure/{experiment}.tsv"
    resources:
        mem_mb=500,
        runtime="10m",
    params:
        # A change of the base file in config/models/, or of a default, is a change of the job.
        model=lambda wildcards: EXPERIMENTS[wildcards.experiment].model,
        sections=lambda wildcards: EXPERIMENTS[wildcards.experiment].job,
        augment=augmentation,
        start=lambda wildcards: EXPERIMENTS[wildcards.experiment].init_from,
        plugins=SETTINGS["plugins"],
    message:
        "writing the job file of {wildcards.experiment}"
    shell:
        "lt25 configure {wildcards.experiment:q} 2>&1 | tee {log:q}"


# A second's work on a few numbers.
checkpoint choose_runs:
    input:
        lambda wildcards: [
            f"results/{run}/rungs/step-{wildcards.step}.json" for run in going_on(wildcards.sweep, int(wildcards.step))
        ],
    output:
        "results/{sweep}/rungs/step-{step}.json",
    log:
        "results/logs/halve/{sweep}-step-{step}.log",
    params:
        halving=lambda wildcards: SWEEPS[wildcards.sweep][0].halving,
    message:
        "choosing the runs of {wildcards.sweep} that go on from step {wildcards.step}"
    shell:
        "lt25 halve {wildcards.sweep:q} --rung {wildcards.step:q} 2>&1 | tee {log:q}"


# The checkpoints are a param: as an output they would be deleted when a job is killed, and nothing could be resumed.
rule train_model:
    input:
        job_files,
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
        start=starting_model,
    output:
        "results/{experiment}/train.json",
        history="results/{experiment}/metrics.jsonl",
    log:
        "results/logs/train/{experiment}.log",
    benchmark:
        "results/benchmarks/train/{experiment}.tsv"
    # Without --cores the job is sent to a cluster.
    threads: workflow.resource_settings.cores or 8
    resources:
        gpu=lambda wildcards: gpus(EXPERIMENTS[wildcards.experiment].job.get("parallelism", {})),
        nodes=1,
        mem_mb=4000,
        runtime="2d",
        # For Slurm: the command stands in the batch script and starts its own step on each node, with all GPUs that are there.
        mpi="",
        tasks_per_gpu=0,
    params:
        checkpoints="results/{experiment}/checkpoints",
        until="",
    message:
        "training {wildcards.experiment}; checkpoints in {params.checkpoints}"
    # On each node its part of the GPUs; none of them, and the experiment's degrees of parallelism say how many processes.
    shell:
        "gpus=$(({resources.gpu} / {resources.nodes})); "
        "NGPU=${{gpus#0}} NNODE={resources.nodes} lt25 train {wildcards.experiment:q} {params.until} --wait 2>&1 | tee {log:q}"


# A run of a sweep up to a rung, from where `train_model` goes on if it is among the best there.
use rule train_model as train_rung with:
    input:
        job_files,
        stats=lambda wildcards: stats_file(EXPERIMENTS[wildcards.experiment]),
        start=starting_model,
    output:
        "results/{experiment}/rungs/step-{step}.json",
    log:
        "results/logs/train/{experiment}-step-{step}.log",
    benchmark:
        "results/benchmarks/train/{experiment}-step-{step}.tsv"
    params:
        checkpoints="results/{experiment}/checkpoints",
        until=lambda wildcards: f"--rung {wildcards.step}",
    message:
        "training {wildcards.experiment} up to step {wildcards.step}; checkpoints in {params.checkpoints}"

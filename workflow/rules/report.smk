rule write_report:
    input:
        metrics=[f"results/{experiment.name}/evaluation/metrics.json" for experiment in SHOWN],
        steps=[file for experiment in SHOWN for file in curve(experiment)],
    output:
        report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    resources:
        mem_mb=1000,
        runtime="30m",
    params:
        experiments=SETTINGS["experiments"],
    message:
        "writing the report, {output}"
    shell:
        "lt25 report --output {output:q} {params.experiments:q} 2>&1 | tee {log:q}"


# All runs of a sweep, compared.
rule write_sweep:
    input:
        lambda wildcards: [f"results/{run}/evaluation/metrics.json" for run in going_on(wildcards.sweep)],
        lambda wildcards: choices(wildcards.sweep),
    output:
        "results/{sweep}/report.html",
    log:
        "results/logs/sweep/{sweep}.log",
    benchmark:
        "results/benchmarks/sweep/{sweep}.tsv"
    resources:
        mem_mb=1000,
        runtime="30m",
    message:
        "comparing the runs of {wildcards.sweep}: {output}"
    shell:
        "lt25 report --output {output:q} {wildcards.sweep:q} 2>&1 | tee {log:q}"

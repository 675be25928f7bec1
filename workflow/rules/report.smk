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
        experiments=[experiment.name for experiment in SHOWN],
    message:
        "writing the report, {output}"
    shell:
        "lt25 report --output {output:q} {params.experiments:q} 2>&1 | tee {log:q}"

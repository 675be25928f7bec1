# From a dataset's name to a report: `snakemake`.
#
# The experiments are the files of config/experiments/; config/config.yaml says which of them the report shows. Every rule calls
# one `lt25` command, which does the same by hand.


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/slurm.smk"
include: "workflow/rules/kubernetes.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report.html",
    message:
        "open results/report.html"


rule prepare_all:
    input:
        [stats_file(experiment) for experiment in SHOWN],


rule train_all:
    input:
        [f"results/{experiment.name}/train.json" for experiment in SHOWN],


rule evaluate_all:
    input:
        [f"results/{experiment.name}/evaluation/metrics.json" for experiment in SHOWN],

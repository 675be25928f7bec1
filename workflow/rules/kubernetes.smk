# What the executor for Kubernetes needs for jobs that see the same project folder, on a volume, and for a pod that fails.

import sys


def what_there_is(read):
    """A query of a pod's log that says why there is none where it fails.

    The executor, at 0.5, asks for the log of a pod's start before this one, of which there is none, and ends when that fails.
    """

    def answer(api, name, namespace, previous=False, **more):
        try:
            return read(api, name, namespace, **more)
        except Exception as error:
            return f"{name}: no log: {getattr(error, 'reason', error)}"

    return answer


# Snakemake has imported all executors that are installed.
EXECUTOR = sys.modules.get("snakemake_executor_plugin_kubernetes")
if workflow.is_main_process and EXECUTOR:
    # It mounts the volume, but has Snakemake take for granted that jobs share no files, whatever `--shared-fs-usage` says: each
    # would get an empty folder and those files alone that its rule names.
    EXECUTOR.common_settings.implies_no_shared_fs = False
    API = EXECUTOR.kubernetes.client.CoreV1Api
    API.read_namespaced_pod_log = what_there_is(API.read_namespaced_pod_log)

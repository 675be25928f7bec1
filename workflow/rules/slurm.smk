# What the executor for Slurm needs to outlast a controller that is down for a while.

import sys


def nothing_known(ask):
    """A query of the jobs' states that says of no job anything where it fails, so that they are asked for again later.

    The executor, at 2.8, forgets its jobs when a query fails, and waits for them without end.
    """

    async def answer(command, logger):
        states, seconds = await ask(command, logger)
        return ({}, 0.0) if states is None else (states, seconds)

    return answer


# Snakemake has imported all executors that are installed. Other versions may ask in another way.
EXECUTOR = sys.modules.get("snakemake_executor_plugin_slurm")
if workflow.is_main_process and (query := getattr(EXECUTOR, "query_job_status", None)):
    EXECUTOR.query_job_status = nothing_known(query)

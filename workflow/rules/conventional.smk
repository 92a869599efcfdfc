# A branch beside the chain, for the runs that ask for it. It does not keep the chain from a core: its
# priority is lower, and it takes as many cores as the stage that could start in its place.
rule conventional:
    input:
        spec=f"{FOLDER}/spec/conventional/{{run_id}}.json",
    output:
        f"{RUN}/conventional.zarr.zip",
    log:
        f"{LOGS}/conventional.log",
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/conventional.work",
    shell:
        "python -m ferminet_core conventional {input.spec:q} --out {output:q}"
        " --work {params.work:q} --devices {threads}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

rule reference:
    input:
        spec=SPEC,
    output:
        f"{RUN}/reference.zarr.zip",
    log:
        f"{LOGS}/reference.log",
    # Before the conventional energies, which nothing waits for.
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/reference.work",
    shell:
        "python -m ferminet_core reference {input.spec:q} --out {output:q}"
        " --work {params.work:q}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

rule reference:
    input:
        spec=SPEC,
    output:
        f"{RUN}/reference.zarr.zip",
    log:
        f"{LOGS}/reference.log",
    conda:
        "../../environment.yml"
    params:
        work=f"{RUN}/reference.work",
    shell:
        "python -m ferminet_core reference {input.spec:q} --out {output:q}"
        " --work {params.work:q} 2>&1 | tee {log:q}"

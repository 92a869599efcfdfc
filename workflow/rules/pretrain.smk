rule pretrain:
    input:
        spec=SPEC,
        reference=rules.reference.output,
    output:
        f"{RUN}/pretrain.zarr.zip",
    log:
        f"{LOGS}/pretrain.log",
    conda:
        "../../environment.yml"
    threads: THREADS
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/pretrain.work",
    shell:
        "python -m ferminet_core pretrain {input.spec:q} --reference {input.reference:q}"
        " --out {output:q} --work {params.work:q} --devices {threads}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

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
        launcher=launcher,
        ranks=ranks,
        gpus=gpus,
    shell:
        "{params.launcher} python -m ferminet_core pretrain {input.spec:q} --reference {input.reference:q}"
        " --out {output:q} --work {params.work:q} --ranks {params.ranks} --devices {threads} --gpus {params.gpus}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

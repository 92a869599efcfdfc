rule optimise:
    input:
        spec=SPEC,
        pretrain=rules.pretrain.output,
    output:
        f"{RUN}/optimise.zarr.zip",
    log:
        f"{LOGS}/optimise.log",
    # Finish what is begun before the next geometry is started.
    priority: 2
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/optimise.work",
        launcher=launcher,
        ranks=ranks,
        gpus=gpus,
    shell:
        "{params.launcher} python -m ferminet_core optimise {input.spec:q} --pretrain {input.pretrain:q}"
        " --out {output:q} --work {params.work:q} --ranks {params.ranks} --devices {threads} --gpus {params.gpus}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

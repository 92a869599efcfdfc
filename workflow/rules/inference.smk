rule inference:
    input:
        spec=SPEC,
        reference=rules.reference.output,
        optimise=rules.optimise.output,
    output:
        f"{RUN}/inference.zarr.zip",
    log:
        f"{LOGS}/inference.log",
    priority: 3
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/inference.work",
        launcher=launcher,
        ranks=ranks,
        gpus=gpus,
    shell:
        "{params.launcher} python -m ferminet_core inference {input.spec:q} --optimise {input.optimise:q}"
        " --reference {input.reference:q} --out {output:q} --work {params.work:q}"
        " --ranks {params.ranks} --devices {threads} --gpus {params.gpus}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

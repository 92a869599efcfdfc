rule pretrain:
    input:
        spec=SPEC,
        reference=rules.reference.output,
        neighbour=neighbour,
    output:
        f"{RUN}/pretrain.zarr.zip",
    log:
        f"{LOGS}/pretrain.log",
    priority: 1
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        attempt_number=attempt_number,
    params:
        work=f"{RUN}/pretrain.work",
        launcher=launcher,
        start=lambda wildcards, input: (
            f"--neighbour {shlex.quote(str(input.neighbour))}"
            if input.neighbour
            else ""
        ),
        ranks=ranks,
        gpus=gpus,
    shell:
        "{params.launcher} python -m ferminet_core pretrain {input.spec:q} --reference {input.reference:q} {params.start}"
        " --out {output:q} --work {params.work:q} --ranks {params.ranks} --devices {threads} --gpus {params.gpus}"
        " --attempt {resources.attempt_number} 2>&1 | tee -i {log:q}"

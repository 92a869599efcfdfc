# A rule for each stage of a run or a group, from the table of the stages. The conventional energies are a branch
# for the runs that ask for them. They have the lowest priority, so they do not keep the chain from a
# core. Snakemake deletes the log of a stage before each attempt; attempts.log in the work folder keeps
# them all.


for depth, stage in enumerate(STAGES):

    rule:
        name:
            stage.name
        input:
            **parents_of(stage),
            **neighbour_of(stage.neighbour),
            **group_of(stage.group),
            spec=spec_of(stage),
        output:
            (group_result if stage.of_group else result)(stage.name),
        log:
            f"{GROUP_LOGS if stage.of_group else LOGS}/{stage.name}.log",
        # Finish a geometry before the next one is started.
        priority: 1 + depth if stage.chain or stage.of_group else 0
        conda:
            "../../environment.yml"
        threads: (all_cores if stage.of_group else cores) if stage.cores else 1
        resources:
            attempt_number=attempt_number,
        params:
            stage=stage.name,
            launcher=launcher if stage.ranks else "",
            parents=parents,
            work=work_folder,
            wall_time=wall_time,
            share=(
                share_of_ranks
                if stage.ranks
                else (share_of_cores if stage.cores else "")
            ),
        shell:
            "mkdir -p {params.work:q} && "
            "{params.launcher} python -m ferminet_core {params.stage} {input.spec:q} {params.parents}"
            " --out {output:q} --work {params.work:q} {params.share}"
            " {params.wall_time} --attempt {resources.attempt_number} 2>&1"
            " | tee -ai {log:q} {params.work:q}/attempts.log"

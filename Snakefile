# One scan of geometries, from the system file to table and curve:
#   snakemake --profile cluster_profiles/local --config system=h2
# Configuration keys: system (a name in systems/ or the path of a YAML file), preset, results (the
# folder to write to), set (overrides, "optimise.iterations=500 mcmc.walkers=512").
from snakemake.utils import min_version

min_version("9.13")


include: "workflow/rules/common.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/optimise.smk"
include: "workflow/rules/inference.smk"
include: "workflow/rules/conventional.smk"
include: "workflow/rules/summary.smk"


localrules:
    all,
    summary,


rule all:
    default_target: True
    input:
        rules.summary.output,
        # Named as well because a table of an unfinished scan is newer than what is missing.
        expand(rules.inference.output, run_id=RUN_IDS),
        expand(rules.conventional.output, run_id=CONVENTIONAL),


# One broken run does not withhold the others: table and curve of what is done.
onerror:
    shell(SUMMARY)

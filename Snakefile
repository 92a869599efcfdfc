# One scan of geometries, from the system file to table and curve:
#   snakemake --profile cluster_profiles/local --config system=h2
# workflow/schemas/config.schema.yaml describes the configuration keys.
from snakemake.utils import min_version

min_version("9.13")


include: "workflow/rules/common.smk"
include: "workflow/rules/stages.smk"


# A process that runs one job of another Snakemake has no scan: it knows its job from the job's names.
if workflow.is_main_process:

    include: "workflow/rules/scan.smk"

    rule all:
        default_target: True
        input:
            rules.summary.output,
            # Named as well because the table of an unfinished scan is newer than what is missing.
            INFERENCE,
            CONVENTIONAL,

# The scan as a whole: its spec files before all stages, its table and curve after them.
INFERENCE = expand(result("inference"), scan=SCAN.name, run_id=RUN_IDS)
CONVENTIONAL = expand(
    result("conventional"),
    scan=SCAN.name,
    run_id=[run.run_id for run in SCAN.runs if run.config.conventional.methods],
)
# From the scan as it was when Snakemake started. The literature is not an input: it may be missing,
# and touching it must not run anything. After editing it, call this command by hand with the system
# file; it takes seconds.
SUMMARY = shlex.join(
    [*"python -m ferminet_core summary".split(), f"{SCAN_FOLDER}/scan.json"]
    + ["--results", RESULTS]
)


localrules:
    all,
    specs,
    summary,


# Spec files of new and changed runs only. The others are plain input files, so finished runs do not
# depend on anything that this rule's records may say.
rule specs:
    input:
        staged,
    output:
        [f"{SCAN_FOLDER}/{name}" for name in CHANGES.texts],
    log:
        f"{SCAN_FOLDER}/logs/specs.log",
    conda:
        "../../environment.yml"
    params:
        # Not the directive `script`, which fails in a folder with a space in its name.
        script=str(Path(workflow.basedir) / "workflow" / "scripts" / "write_specs.py"),
        folder=lambda wildcards: SCAN_FOLDER,
    shell:
        "python {params.script:q} {input:q} {params.folder:q} 2>&1 | tee {log:q}"


rule summary:
    input:
        f"{SCAN_FOLDER}/runs.txt",
        INFERENCE,
        CONVENTIONAL,
    output:
        report(
            f"{SCAN_FOLDER}/scan.csv", caption="../report/table.rst", category="Scan"
        ),
        report(
            f"{SCAN_FOLDER}/curve.svg", caption="../report/curve.rst", category="Scan"
        ),
        f"{SCAN_FOLDER}/curve.png",
        report(
            f"{SCAN_FOLDER}/report.html", caption="../report/page.rst", category="Scan"
        ),
        f"{SCAN_FOLDER}/scan.zarr.zip",
        [f"{SCAN_FOLDER}/quantities.csv"] if SCAN.quantities else [],
    log:
        f"{SCAN_FOLDER}/logs/summary.log",
    conda:
        "../../environment.yml"
    params:
        command=SUMMARY,
    shell:
        "{params.command} 2>&1 | tee {log:q}"


# Only when jobs are about to run: not in a dry run, and not in the process of a job.
onstart:
    try:
        hold(Path(SCAN_FOLDER), lambda line: print(line, file=sys.stderr))
        refuse_changed_scan()
        freeze(SCAN, RESULTS)
    except FermiNetError as error:
        fail(error)


# A failed run does not hold up the others: write table and curve of the finished runs.
onerror:
    shell(SUMMARY)

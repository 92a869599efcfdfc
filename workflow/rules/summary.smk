# The literature is no input: it may be missing, and touching it must not run anything. After
# editing it, call this command by hand; it takes seconds.
SUMMARY = shlex.join(
    ["python", "-m", "ferminet_core", "summary", SYSTEM, "--results", RESULTS]
    + (["--preset", PRESET] if PRESET else [])
    + [word for override in OVERRIDES for word in ("--set", override)]
)


rule summary:
    input:
        RUN_LIST,
        expand(rules.inference.output, run_id=RUN_IDS),
        expand(rules.conventional.output, run_id=CONVENTIONAL),
    output:
        report(f"{FOLDER}/scan.csv", caption="../report/table.rst", category="Scan"),
        report(f"{FOLDER}/curve.svg", caption="../report/curve.rst", category="Scan"),
        f"{FOLDER}/curve.png",
        report(f"{FOLDER}/report.html", caption="../report/page.rst", category="Scan"),
        f"{FOLDER}/scan.zarr.zip",
        [f"{FOLDER}/quantities.csv"] if SCAN.quantities else [],
    log:
        f"{FOLDER}/logs/summary.log",
    conda:
        "../../environment.yml"
    params:
        command=SUMMARY,
    shell:
        "{params.command} 2>&1 | tee {log:q}"

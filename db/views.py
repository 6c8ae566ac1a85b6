"""The SQL text of the store's views, and of the frontiers that the views and other queries share.

A view is code, and so is a trigger (`db/standing.py`): each upgrade drops all of them and makes those of today.
Changing one takes a new migration, if only an empty one, so that stores take notice.
"""

from db import standing

NAMES = ("frontier", "run_summary", "sweep_best")


COLUMNS = (
    *("series_id", "configuration", "training", "pretraining", "family", "model", "cost", "quality", "value", "sd"),
    *("seeds", "epochs", "data_rows", "parameters", "images", "forward_flops", "device_seconds", "device", "money"),
    *("external", "sweep", "searched"),
)
"""Of a point, but for `leads`."""


_POOLED = """coalesce(p.quality > max(p.quality) OVER (
    PARTITION BY p.series_id ORDER BY p.cost, p.quality DESC GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
), true) AS pooled"""
"""Of points on their family's frontier, all of those of a series: whether it is better than all that are cheaper. The
frame ends before those of the same cost and quality, which are on a frontier together."""


def frontier_rows(dialect: str, where: str = "") -> str:
    """A query for the points on the frontier of each family in each series, exact duplicates included.

    where: a condition on `s`, the table series, such as `WHERE s.id = :series_id`.

    Columns: those of point, and `pooled`, true where no point of any family beats it. From a point on the frontier, the
    next one is the first along the index (series_id, family, cost, quality DESC) that costs more and is better: one
    pass over the index, whatever the length of the frontier. It trusts no flag: what stands is checked by it.
    """
    return f"""
WITH RECURSIVE families(series_id, family) AS (
    SELECT s.id, (SELECT min(p.family) FROM point p WHERE p.series_id = s.id) FROM series s {where}
    UNION ALL
    SELECT f.series_id, (SELECT min(p.family) FROM point p WHERE p.series_id = f.series_id AND p.family > f.family)
    FROM families f WHERE f.family IS NOT NULL
), {_JUMP[dialect]}
SELECT {", ".join(f"p.{name}" for name in COLUMNS)}, {_POOLED}
FROM {_POINTS[dialect]}
"""


# PostgreSQL cannot know how few rows a recursion has, and would join them to all points. LATERAL leaves it no choice:
# for each row one walk along the index. SQLite has no LATERAL, but always loops; a scalar subquery brings the rowid of
# the next point, which every index of SQLite holds.
_JUMP = {
    "postgresql": """jump(series_id, family, cost, quality) AS (
    SELECT f.series_id, f.family, n.cost, n.quality
    FROM families f CROSS JOIN LATERAL (
        SELECT p.cost, p.quality FROM point p
        WHERE p.series_id = f.series_id AND p.family = f.family AND p.cost > 0
        ORDER BY p.cost, p.quality DESC LIMIT 1
    ) n
    UNION ALL
    SELECT j.series_id, j.family, n.cost, n.quality
    FROM jump j CROSS JOIN LATERAL (
        SELECT n.cost, n.quality FROM point n
        WHERE n.series_id = j.series_id AND n.family = j.family AND n.cost > j.cost AND n.quality > j.quality
        ORDER BY n.cost, n.quality DESC LIMIT 1
    ) n
)""",
    "sqlite": """jump(place) AS (
    SELECT (
        SELECT p.rowid FROM point p
        WHERE p.series_id = f.series_id AND p.family = f.family AND p.cost > 0
        ORDER BY p.cost, p.quality DESC LIMIT 1
    ) FROM families f WHERE f.family IS NOT NULL
    UNION ALL
    SELECT (
        SELECT n.rowid FROM point n
        WHERE n.series_id = a.series_id AND n.family = a.family AND n.cost > a.cost AND n.quality > a.quality
        ORDER BY n.cost, n.quality DESC LIMIT 1
    ) FROM jump j JOIN point a ON a.rowid = j.place
)""",
}

# The points of the jump, and those of exactly the same cost and quality. OFFSET 0 keeps PostgreSQL from making a join
# of the subquery.
_POINTS = {
    "postgresql": """jump j CROSS JOIN LATERAL (
    SELECT * FROM point
    WHERE point.series_id = j.series_id AND point.family = j.family
    AND point.cost = j.cost AND point.quality = j.quality OFFSET 0
) p""",
    "sqlite": """jump j
JOIN point a ON a.rowid = j.place
JOIN point p ON p.series_id = a.series_id AND p.family = a.family AND p.cost = a.cost AND p.quality = a.quality""",
}

_FRONTIER_COLUMNS = """
    study.name AS study, series.kind, series.metric, series.dataset, series.split, series.image_size, f.family, f.model,
    f.cost, f.value, f.sd, f.seeds, f.epochs, f.data_rows, f.parameters, f.configuration, f.training, f.pooled,
    f.images, f.forward_flops, f.device_seconds, f.device, f.money, f.external
"""

# The standing frontiers. PostgreSQL reads those of the studies that a WHERE on the view leaves; SQLite, without
# LATERAL, reads all, and of all so little that it is in the index.
_FRONTIER = {
    "postgresql": f"""
CREATE VIEW frontier AS
SELECT {_FRONTIER_COLUMNS}
FROM study
JOIN series ON series.study_id = study.id
CROSS JOIN LATERAL (SELECT p.*, {_POOLED} FROM point p WHERE p.leads AND p.series_id = series.id) f
""",
    "sqlite": f"""
CREATE VIEW frontier AS
SELECT {_FRONTIER_COLUMNS.replace("f.pooled", "leading.pooled")}
FROM study
JOIN series ON series.study_id = study.id
JOIN (SELECT p.rowid AS place, p.series_id, {_POOLED} FROM point p WHERE p.leads) leading
    ON leading.series_id = series.id
JOIN point f ON f.rowid = leading.place
""",
}

_RUN_SUMMARY = """
CREATE VIEW run_summary AS
SELECT
    study.name AS study, study_run.position, run.key, run.kind, run.model, run.family, run.seed, run.dataset, run.split,
    run.image_size, run.data_rows, run.epochs, run.parameters, run.flops, run.train_flops, run.images, run.state,
    run.step, run.steps, run.failures, run.preemptions, run.fence AS attempts, run.cause, run.owner, run.checkpoint,
    run.numerics, run.mixed_numerics, run.data_digest, run.data_skipped, run.created_at, run.started_at,
    run.finished_at, run.seconds, run.configuration, upstream.key AS upstream, study_run.sweep,
    study_run.searched, study_run.role, study_run.transfer
FROM study
JOIN study_run ON study_run.study_id = study.id
JOIN run ON run.id = study_run.run_id
LEFT JOIN run upstream ON upstream.id = run.upstream_id
"""

# A sweep that a study spells out: the best of its cells on the development split, with its point on the test split.
_SWEPT = """
SELECT
    study.name AS study, best.sweep, best.dataset, best.image_size, best.model, best.searched,
    best.training AS configuration, best.value AS development_value, test.value AS test_value, test.sd AS test_sd,
    test.seeds, best.cost, best.candidates, CAST(NULL AS TEXT) AS edge, false AS extended
FROM study
JOIN (
    SELECT
        series.study_id, series.kind, series.metric, series.dataset, series.image_size, point.sweep, point.model,
        point.searched, point.training, point.value, point.cost,
        count(*) OVER (PARTITION BY series.study_id, series.id, point.sweep) AS candidates,
        row_number() OVER (
            PARTITION BY series.study_id, series.id, point.sweep
            ORDER BY point.quality DESC, point.cost, point.training
        ) AS place
    FROM series JOIN point ON point.series_id = series.id
    WHERE series.kind = 'evaluate' AND series.metric = 'accuracy' AND series.split = 'validation'
    AND point.sweep IS NOT NULL
) best ON best.study_id = study.id AND best.place = 1
LEFT JOIN series of_test
    ON of_test.study_id = best.study_id AND of_test.kind = best.kind AND of_test.metric = best.metric
    AND of_test.dataset = best.dataset AND of_test.split = 'test' AND of_test.image_size = best.image_size
LEFT JOIN point test ON test.series_id = of_test.id AND test.training = best.training
"""

# A search that has chosen: for each data set of it the final trainings, with what the first of their evaluations on it
# has so far. Points would not do: those of searches for two seeds of a pre-training are one where both chose the same.
_SEARCHED = """
SELECT
    study.name AS study, search.key AS sweep, final.dataset, final.image_size, upstream.model,
    search.chosen AS searched, final.configuration, search.development AS development_value,
    test.mean AS test_value,
    CASE WHEN test.seeds > 1 THEN sqrt(test.squares / (test.seeds - 1)) END AS test_sd,
    test.seeds, upstream.train_flops AS cost, search.trials AS candidates, search.edge, search.extended
FROM search
JOIN study ON study.id = search.study_id
JOIN run upstream ON upstream.id = search.upstream_id
JOIN (
    SELECT DISTINCT study_run.study_id, study_run.sweep, run.dataset, run.image_size, run.configuration
    FROM study_run JOIN run ON run.id = study_run.run_id
    WHERE study_run.role = 'final' AND run.kind = 'finetune'
) final ON final.study_id = search.study_id AND final.sweep = search.key
LEFT JOIN (
    SELECT
        study_id, sweep, dataset, configuration, max(mean) AS mean, count(*) AS seeds,
        sum((value - mean) * (value - mean)) AS squares
    FROM (
        SELECT
            study_run.study_id, study_run.sweep, tuned.dataset, tuned.configuration, result.split, result.value,
            avg(result.value) OVER (
                PARTITION BY study_run.study_id, study_run.sweep, tuned.configuration, result.split
            ) AS mean,
            first_value(result.split) OVER (
                PARTITION BY study_run.study_id, study_run.sweep, tuned.configuration ORDER BY study_run.position
            ) AS first_split
        FROM study_run
        JOIN run ON run.id = study_run.run_id AND run.kind = 'evaluate'
        JOIN run tuned ON tuned.id = run.upstream_id
        JOIN result ON result.run_id = run.id
        WHERE study_run.role = 'final' AND result.metric = 'accuracy' AND result.dataset = tuned.dataset
        AND result.value IS NOT NULL
    ) measured
    WHERE split = first_split
    GROUP BY study_id, sweep, dataset, configuration
) test ON test.study_id = search.study_id AND test.sweep = search.key AND test.configuration = final.configuration
WHERE search.state = 'decided'
"""

_SWEEP_BEST = f"CREATE VIEW sweep_best AS {_SWEPT} UNION ALL {_SEARCHED}"


def create(dialect: str) -> list[str]:
    """The statements that make the views and the triggers."""
    return [_FRONTIER[dialect], _RUN_SUMMARY, _SWEEP_BEST, *standing.create(dialect)]


def drop() -> list[str]:
    """The statements that remove the views: a table under a view cannot be rebuilt. Triggers are replaced."""
    return [f"DROP VIEW IF EXISTS {name}" for name in NAMES]

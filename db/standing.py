"""The triggers that keep `point.leads` true: whether a point is on its family's frontier over training FLOPs.

They repair that frontier where a point came, went or moved, in the statement that did it, and look at nothing else. A
client's own statements would take a round trip each, and could be forgotten. Who asks is in `db/frontiers.py`.

One point comes: when the leader next below its cost does not beat it, it leads, and those that it beats lead no more.
One leader goes: those that it alone had beaten lie between its cost and the next leader's, and are better than the
leader before; the first of them along the index `point_frontier` leads, and from there on as in `db/views.py`.
Among the leaders of a family, quality grows with cost; those of equal cost are exact duplicates, which all lead.
"""

NAMES = ("point_comes", "point_goes", "point_moves", "point_loses_its_lead")

_BEATEN = """EXISTS (
    SELECT 1 FROM (
        SELECT b.cost, b.quality FROM point b
        WHERE b.leads AND b.series_id = NEW.series_id AND b.family = NEW.family AND b.cost <= NEW.cost
        ORDER BY b.cost DESC, b.quality DESC LIMIT 1
    ) below
    WHERE below.quality > NEW.quality OR (below.quality = NEW.quality AND below.cost < NEW.cost)
)"""
"""Whether a leader other than the new row beats it. NULL costs are compared before."""

_MOVED = """(
    OLD.series_id <> NEW.series_id OR OLD.family <> NEW.family OR OLD.quality <> NEW.quality
    OR OLD.cost IS {differs} NEW.cost
)"""
_BETTER = """(
    OLD.series_id = NEW.series_id AND OLD.family = NEW.family AND NEW.cost > 0
    AND NEW.cost <= OLD.cost AND NEW.quality >= OLD.quality
)"""
"""What the row beat before, it beats still: there is nothing to repair."""


def create(dialect: str) -> list[str]:
    """The statements that make the triggers, or replace those of an older version."""
    return _sqlite() if dialect == "sqlite" else _postgresql()


# ------------------------------------------------------------------------------------------------------------- SQLite

# A trigger of SQLite runs for each row at once, knows no variables, and WITH only inside a subquery.
_LEADERS = "SELECT {what} FROM point l WHERE l.leads AND l.series_id = OLD.series_id AND l.family = OLD.family"
_FLOOR = f"coalesce(({_LEADERS.format(what='l.quality')} AND l.cost <= OLD.cost ORDER BY l.cost DESC LIMIT 1), -9e999)"
_CEILING = f"coalesce(({_LEADERS.format(what='l.cost')} AND l.cost > OLD.cost ORDER BY l.cost LIMIT 1), 9e999)"
_NEXT = """
    SELECT n.rowid FROM point n
    WHERE n.series_id = OLD.series_id AND n.family = OLD.family AND n.cost {above} AND n.cost < ({ceiling})
    AND n.quality > {floor}
    ORDER BY n.cost, n.quality DESC LIMIT 1
"""
_REPAIR = f"""
UPDATE point SET leads = 1 WHERE rowid IN (
    SELECT p.rowid
    FROM (
        WITH RECURSIVE jump(place) AS (
            SELECT ({_NEXT.format(above=">= OLD.cost", ceiling=_CEILING, floor=_FLOOR)})
            UNION ALL
            SELECT ({_NEXT.format(above="> a.cost", ceiling=_CEILING, floor="a.quality")})
            FROM jump j JOIN point a ON a.rowid = j.place
        )
        SELECT place FROM jump
    ) found
    JOIN point a ON a.rowid = found.place
    JOIN point p ON p.series_id = a.series_id AND p.family = a.family AND p.cost = a.cost AND p.quality = a.quality
);"""
_LEAD = f"UPDATE point SET leads = 1 WHERE rowid = NEW.rowid AND NOT leads AND NEW.cost > 0 AND NOT {_BEATEN};"


def _beat(cost: str, quality: str, row: str, false: str, infinity: str) -> str:
    """Take the lead from those that a leader of this cost and quality beats, the family being that of `row`.

    They end before the first leader that is better; without that bound a long frontier would be read to its end.
    """
    of_family = f"series_id = {row}.series_id AND {{0}}family = {row}.family AND {{0}}cost >= {cost}"
    return f"""
UPDATE point SET leads = {false}
WHERE leads AND {of_family.format("")} AND quality <= {quality} AND (cost > {cost} OR quality < {quality})
AND cost < coalesce((
    SELECT l.cost FROM point l WHERE l.leads AND l.{of_family.format("l.")} AND l.quality > {quality}
    ORDER BY l.cost LIMIT 1
), {infinity})"""


def _sqlite() -> list[str]:
    beat = _beat("NEW.cost", "NEW.quality", "NEW", "0", "9e999")
    moved, moves = _MOVED.format(differs="NOT"), "AFTER UPDATE OF series_id, family, cost, quality ON point"
    lost = f"OLD.leads AND NOT coalesce({_BETTER}, 0)"
    return [
        *(f"DROP TRIGGER IF EXISTS {name}" for name in NAMES),
        f"""
CREATE TRIGGER point_comes AFTER INSERT ON point WHEN NEW.cost > 0 AND NOT {_BEATEN}
BEGIN {_LEAD} {beat}; END""",
        f"""
CREATE TRIGGER point_goes AFTER DELETE ON point WHEN OLD.leads
BEGIN {_REPAIR} END""",
        f"""
CREATE TRIGGER point_moves {moves} WHEN {moved} AND NOT ({lost}) AND NEW.cost > 0 AND NOT {_BEATEN}
BEGIN {_LEAD} {beat}; END""",
        f"""
CREATE TRIGGER point_loses_its_lead {moves} WHEN {moved} AND {lost}
BEGIN
UPDATE point SET leads = 0 WHERE rowid = NEW.rowid;
{_REPAIR}
{_LEAD}
{beat} AND (SELECT n.leads FROM point n WHERE n.rowid = NEW.rowid);
END""",
    ]


# --------------------------------------------------------------------------------------------------------- PostgreSQL

# A trigger of PostgreSQL runs when the statement has changed all its rows, whose other triggers may be still to come.
# So that no row that moved leads where it no longer is, the flag goes before. So that any order of the rows comes to
# the same, a repair goes on to the first leader that is better than the one that went: those before it may have come in
# the same statement, may be beaten by what is found, and may have exact duplicates that do not lead yet.
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION point_stands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    least double precision;
    ceiling double precision;
    found_cost double precision;
    found_quality double precision;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.leads AND (TG_OP = 'DELETE' OR NOT coalesce({_BETTER}, false)) THEN
        SELECT l.quality INTO least FROM point l
        WHERE l.leads AND l.series_id = OLD.series_id AND l.family = OLD.family AND l.cost < OLD.cost
        ORDER BY l.cost DESC LIMIT 1;
        SELECT l.cost INTO ceiling FROM point l
        WHERE l.leads AND l.series_id = OLD.series_id AND l.family = OLD.family AND l.cost > OLD.cost
        AND l.quality > OLD.quality
        ORDER BY l.cost LIMIT 1;
        least := coalesce(least, '-infinity');
        ceiling := coalesce(ceiling, 'infinity');
        SELECT n.cost, n.quality INTO found_cost, found_quality FROM point n
        WHERE n.series_id = OLD.series_id AND n.family = OLD.family AND n.cost >= OLD.cost AND n.cost < ceiling
        AND n.quality > least
        ORDER BY n.cost, n.quality DESC LIMIT 1;
        WHILE FOUND LOOP
            UPDATE point SET leads = true
            WHERE series_id = OLD.series_id AND family = OLD.family AND cost = found_cost AND quality = found_quality
            AND NOT leads;
            {_beat("found_cost", "found_quality", "OLD", "false", "'infinity'")};
            SELECT n.cost, n.quality INTO found_cost, found_quality FROM point n
            WHERE n.series_id = OLD.series_id AND n.family = OLD.family AND n.cost > found_cost AND n.cost < ceiling
            AND n.quality > found_quality
            ORDER BY n.cost, n.quality DESC LIMIT 1;
        END LOOP;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        IF NEW.cost > 0 AND NOT {_BEATEN} THEN
            UPDATE point SET leads = true
            WHERE series_id = NEW.series_id AND configuration = NEW.configuration AND NOT leads;
            {_beat("NEW.cost", "NEW.quality", "NEW", "false", "'infinity'")};
        END IF;
    END IF;
    RETURN NULL;
END $$"""
_RESET = """
CREATE OR REPLACE FUNCTION point_is_reset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.leads := false;
    RETURN NEW;
END $$"""


def _postgresql() -> list[str]:
    moved, of = _MOVED.format(differs="DISTINCT FROM"), "UPDATE OF series_id, family, cost, quality ON point"
    run = "FOR EACH ROW {when} EXECUTE FUNCTION {function}()"

    def calls(when: str, function: str = "point_stands") -> str:
        return run.format(when=f"WHEN ({when})", function=function)

    return [
        _FUNCTION,
        _RESET,
        *(f"DROP TRIGGER IF EXISTS {name} ON point" for name in NAMES),
        f"CREATE TRIGGER point_comes AFTER INSERT ON point {calls('NEW.cost > 0')}",
        f"CREATE TRIGGER point_goes AFTER DELETE ON point {calls('OLD.leads')}",
        f"CREATE TRIGGER point_moves AFTER {of} {calls(moved)}",
        f"CREATE TRIGGER point_loses_its_lead BEFORE {of} {calls(f'OLD.leads AND {moved}', 'point_is_reset')}",
    ]

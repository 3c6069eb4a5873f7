//! A migration that has the database itself refuse rows above the limits.

use super::sql::SqlUsage;
use crate::error::Error;
use crate::resource::{ResourceCatalog, ResourceType};
use crate::sql::postgres::literal;

/// The code of `configuration_limit_exceeded`, which Postgres uses for limits of its own, too.
const CODE: &str = "53400";

/// What the names of the triggers begin with.
const PREFIX: &str = "_tower_quota_";

/// What Postgres cuts longer names to.
const LONGEST: usize = 63;

/// A migration after which Postgres refuses rows above a limit, whoever inserts them: also those that are written around
/// the layer, by scripts, imports or other services.
///
/// It puts a trigger on each table. Rows of a request that the layer has admitted are never refused: the trigger lets
/// pass what the transaction's [`Fence`](crate::Fence) holds units for. All others it holds against the limit that is in
/// force for their workspace, and against the caps on the workspaces above, under the lock of all their books, in which it
/// enters them. So they are exact too, and the layer knows of them at once.
///
/// ```no_run
/// use tower_quota::{PostgresUsage, ResourceCatalog};
///
/// # fn migration(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = ResourceCatalog::default();
/// let usage = PostgresUsage::builder(pool, &catalog).build()?;
/// let backstop = usage.backstop(&catalog, ["segments", "users"])?;
/// std::fs::write("migrations/0007_quota_backstop.up.sql", backstop.up())?;
/// std::fs::write("migrations/0007_quota_backstop.down.sql", backstop.down())?;
/// # Ok(())
/// # }
/// ```
///
/// # What it takes
///
/// - The tables of a [`PostgresStore`](crate::PostgresStore) in the same database, made before.
/// - With a [`PostgresLedger`](crate::PostgresLedger): all handlers call [`Fence::hold`](crate::Fence::hold), and do so
///   before they make rows. One that doesn't has its rows counted twice, as rows and as units in flight, and is refused
///   near the limit. Without such a ledger, rows are admitted by the layer and then by the trigger, which refuses only what
///   the rows that exist leave no room for; that can be a request that was admitted before its limit was lowered, or
///   before rows were written around the layer.
/// - A role that runs it which owns the tables, or may `INSERT` and has the right to make a `TRIGGER`, and that owns the
///   function `"_tower_quota_backstop"` or may `EXECUTE` it. The owner of that function, who made the tables of the store,
///   needs `SELECT` on the tables, without row-level security that hides rows from it. Who writes rows needs no rights on
///   the books.
/// - Workspace ids that are spelled as the column's text is: for a column of type `uuid`,
///   [`WorkspaceFormat::Uuid`](crate::WorkspaceFormat::Uuid).
/// - To be generated anew when a table, its filter or a default limit has changed: these stand in the triggers. Limits that
///   are set for a workspace don't.
///
/// # What it does not do
///
/// - It refuses insertions, by `COPY` and `MERGE` too. Rows that an `UPDATE` makes count are seen by the next count.
/// - It knows nothing of the [mode](crate::EnforcementMode). What the layer lets pass over a limit, the trigger lets pass
///   where it is fenced; what the layer doesn't look at, in mode `off` or without a rule, is written around the layer.
/// - It goes by the units of a transaction. One that retries uses the same units again, and so could a handler that makes
///   several; what it makes beyond its units in one of them is held against the limit.
/// - It is no guard against a role that means harm, which could declare units that it doesn't have.
/// - Rows that go straight into a partition, or come by logical replication, fire no trigger.
///
/// # Writers around the layer
///
/// A refusal is an error with the code `53400`, and `_tower_quota_` and the resource type as the name of the constraint:
/// see [`Backstop::refused`]. It says whether it is the limit or whose cap, and whether rows fill it or units in flight do,
/// which come back within moments.
///
/// Who writes around the layer locks the books of the workspace, and those of the caps above, until the transaction ends,
/// and has the layer wait that needs more units for them. So make imports of many small transactions. One that writes for
/// several workspaces should do it in one statement, or it may be the victim of a deadlock (`40P01`); where no caps are
/// above them, the order of their ids does as well. At `REPEATABLE READ` and `SERIALIZABLE` it fails with a serialization
/// error (`40001`) where others have changed the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backstop {
    up: String,
    down: String,
}

impl Backstop {
    /// Makes the triggers, or replaces them. Each is run once without rows, so that mistakes in a filter show at once.
    pub fn up(&self) -> &str {
        &self.up
    }

    /// Takes the triggers away.
    pub fn down(&self) -> &str {
        &self.down
    }

    /// Whether that is what went wrong: nothing was inserted, since it would be above a limit. A handler that gets there
    /// rolls back and answers with a client error, by which its units are free again.
    pub fn refused(error: &sqlx::Error) -> bool {
        let Some(error) = error.as_database_error() else { return false };
        error.code().is_some_and(|code| code == CODE)
            && error.constraint().is_some_and(|constraint| constraint.starts_with(PREFIX))
    }

    fn add(&mut self, usage: &SqlUsage<sqlx::Postgres>, resource: &ResourceType) -> Result<(), Error> {
        let name = resource.name();
        let table = usage.table_of(resource)?;
        let trigger = format!("{PREFIX}{name}");
        if trigger.len() > LONGEST {
            return Err(Error::config(format!(
                "the resource type {name} can't have a backstop: give it a name of at most {} letters",
                LONGEST - PREFIX.len()
            )));
        }
        let default = resource.default_limit().rows().map_or_else(|| "-1".to_owned(), |rows| rows.to_string());
        let arguments = [
            name,
            &table.workspace_column,
            table.workspace_type.as_deref().unwrap_or("text"),
            table.filter.as_deref().unwrap_or("true"),
            resource.limit_field(),
            &default,
        ];
        let arguments = arguments.map(literal).join(", ");
        let table = &table.name;
        self.up.push_str(&format!(
            r#"CREATE OR REPLACE TRIGGER "{trigger}" AFTER INSERT ON "{table}"
REFERENCING NEW TABLE AS "_tower_quota_new" FOR EACH STATEMENT
EXECUTE FUNCTION "_tower_quota_backstop"({arguments});
INSERT INTO "{table}" SELECT WHERE false;
"#
        ));
        self.down.push_str(&format!("DROP TRIGGER IF EXISTS \"{trigger}\" ON \"{table}\";\n"));
        Ok(())
    }
}

impl SqlUsage<sqlx::Postgres> {
    /// The migration that has the database refuse rows of these resource types above their limits: see [`Backstop`].
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when none is named, when `catalog` doesn't have one, when it was built without a table for it,
    /// and when its name is too long for a trigger's.
    pub fn backstop<'a>(
        &self,
        catalog: &ResourceCatalog,
        resources: impl IntoIterator<Item = &'a str>,
    ) -> Result<Backstop, Error> {
        let mut backstop = Backstop {
            up: "-- Refuses rows above the limits of tower-quota. The tables of its PostgresStore must be there.\n"
                .to_owned(),
            down: String::new(),
        };
        for resource in resources {
            let resource = catalog.by_name(resource).map_err(|error| Error::config(error.message()))?;
            backstop.add(self, resource)?;
        }
        if backstop.down.is_empty() {
            return Err(Error::config(format!(
                "a backstop of no resource type: name those that shall have one, of {}",
                catalog.names()
            )));
        }
        Ok(backstop)
    }
}

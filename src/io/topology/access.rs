//! Roles and grants: `topology/access.toml` is complete, so a live privilege that it does not name is a difference too.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::admin::{Admin, run};
use super::{Fault, Item, Kind};
use crate::io::postgres::is_name;
use crate::io::postgres::logins;
use pulsegate_settings::LOCAL;

const DECLARED: &str = include_str!("../../../topology/access.toml");

/// The grantee that stands for every role.
const PUBLIC: &str = "PUBLIC";

/// The service access matrix.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Matrix {
    database: BTreeMap<String, Database>,
    role: BTreeMap<String, Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Database {
    #[expect(dead_code, reason = "documents the file for its readers")]
    purpose: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    #[expect(dead_code, reason = "documents the file for its readers")]
    purpose: String,
    database: String,
    connections_max: i32,
    #[serde(default)]
    database_privileges: Vec<String>,
    #[serde(default)]
    tables: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    sequences: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    functions: BTreeMap<String, Vec<String>>,
}

/// Kind of object that a privilege is held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Database,
    Schema,
    Table,
    Sequence,
    Function,
}

impl Object {
    const ALL: [Self; 5] = [
        Self::Database,
        Self::Schema,
        Self::Table,
        Self::Sequence,
        Self::Function,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Schema => "schema",
            Self::Table => "table",
            Self::Sequence => "sequence",
            Self::Function => "function",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|object| object.as_str() == name)
    }
}

/// One object and one grantee that holds privileges on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holding {
    object: Object,
    name: String,
    grantee: String,
}

type Privileges = BTreeMap<Holding, BTreeSet<String>>;

impl Matrix {
    pub(super) fn declared() -> Result<Self, Fault> {
        let matrix: Self = toml::from_str(DECLARED)
            .map_err(|error| Fault::Invalid(format!("topology/access.toml: {error}")))?;
        let names = matrix.database.keys().chain(matrix.role.keys());
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(Fault::Invalid(format!(
                "topology/access.toml: {name} is not a valid name of a database or role"
            )));
        }
        for (name, role) in &matrix.role {
            if !matrix.database.contains_key(&role.database) {
                return Err(Fault::Invalid(format!(
                    "topology/access.toml: the database of role {name} is not declared"
                )));
            }
        }
        Ok(matrix)
    }

    pub(super) fn databases(&self) -> impl Iterator<Item = &str> {
        self.database.keys().map(String::as_str)
    }

    /// Declared privileges on one database; `*` stands for its `existing` objects.
    fn privileges(&self, admin: &Admin<'_>, database: &str, existing: &[(Object, String)]) -> Privileges {
        let mut wanted = Privileges::new();
        for (role, declared) in self.role.iter().filter(|(_, role)| role.database == database) {
            let grantee = admin.full(role);
            let mut want = |object, name: String, privileges: &[String]| {
                let holding = Holding {
                    object,
                    name,
                    grantee: grantee.clone(),
                };
                wanted
                    .entry(holding)
                    .or_default()
                    .extend(privileges.iter().cloned());
            };
            want(Object::Database, admin.full(database), &["CONNECT".to_owned()]);
            want(
                Object::Database,
                admin.full(database),
                &declared.database_privileges,
            );
            want(Object::Schema, "public".to_owned(), &["USAGE".to_owned()]);
            let kinds = [
                (Object::Table, &declared.tables),
                (Object::Sequence, &declared.sequences),
                (Object::Function, &declared.functions),
            ];
            for (object, grants) in kinds {
                for (name, privileges) in grants.iter().filter(|(name, _)| *name != "*") {
                    want(object, name.clone(), privileges);
                }
                if let Some(privileges) = grants.get("*") {
                    for (_, name) in existing.iter().filter(|(kind, _)| *kind == object) {
                        want(object, name.clone(), privileges);
                    }
                }
            }
        }
        wanted
    }
}

/// Creates the roles with their passwords, and removes attributes and memberships that are not declared.
pub(super) async fn apply_roles(
    admin: &Admin<'_>,
    matrix: &Matrix,
    root: &mut PgConnection,
    changes: &mut Vec<String>,
) -> Result<(), Fault> {
    for (role, declared) in &matrix.role {
        let name = admin.full(role);
        let live = live_role(root, &name).await?;
        let local = admin.settings.environment == LOCAL;
        // A developer's server may have moved to another port: a login with another address is made anew.
        let login = logins::find(&admin.settings.databases, role)?
            .filter(|login| !local || logins::is_at(login, admin.options()));
        let login = match (login, &live) {
            (Some(login), _) => Some(login),
            // A service may use the password of an existing role whose file is not here: outside a developer's machine
            // the password is left unchanged.
            (None, Some(_)) if !local => None,
            (None, _) => {
                let database = admin.full(&declared.database);
                changes.push(format!("created a login for role {name}"));
                Some(logins::make(
                    &admin.settings.databases,
                    role,
                    admin.options(),
                    &database,
                )?)
            }
        };
        if live.is_none() {
            run(root, format!("CREATE ROLE \"{name}\"")).await?;
            changes.push(format!("created role {name}"));
        }
        if live.as_deref() != Some(&*attributes(declared)) {
            run(root, alter_role(&name, declared)).await?;
            for parent in memberships(root, &name).await? {
                run(
                    root,
                    format!("REVOKE \"{}\" FROM \"{name}\"", parent.replace('"', "\"\"")),
                )
                .await?;
                changes.push(format!("removed role {name} from {parent}"));
            }
        }
        if let Some(login) = login {
            let verifier = verifier(&name, login.expose())?;
            run(root, format!("ALTER ROLE \"{name}\" PASSWORD '{verifier}'")).await?;
        }
    }
    Ok(())
}

fn alter_role(name: &str, declared: &Role) -> String {
    format!(
        "ALTER ROLE \"{name}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT \
         CONNECTION LIMIT {}",
        declared.connections_max
    )
}

/// The SCRAM-SHA-256 verifier (RFC 5803) of a login's password: the password itself never goes to the server, where a
/// statement log would keep it.
fn verifier(role: &str, login: &str) -> Result<String, Fault> {
    let password = PasswordOf::parse(login).filter(|login| login.user == role && !login.password.is_empty());
    let Some(login) = password else {
        return Err(Fault::Invalid(format!(
            "the login file of role {role} must hold a URL with that role and a password"
        )));
    };
    Ok(postgres_protocol::password::scram_sha_256(
        login.password.as_bytes(),
    ))
}

struct PasswordOf {
    user: String,
    password: zeroize::Zeroizing<String>,
}

impl PasswordOf {
    fn parse(login: &str) -> Option<Self> {
        use sqlx::ConnectOptions;
        let options: PgConnectOptions = login.parse().ok()?;
        let url = options.to_url_lossy();
        let decode = |text: &str| percent_decode(text);
        Some(Self {
            user: decode(url.username())?,
            password: decode(url.password()?)?.into(),
        })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Declared attributes of a role, in the wording of [`live_role`].
fn attributes(declared: &Role) -> String {
    format!("may log in, {} connections", declared.connections_max)
}

/// Live attributes of a role, in words; `None` where there is no such role.
async fn live_role(connection: &mut PgConnection, name: &str) -> Result<Option<String>, Fault> {
    let fault = |error| Fault::postgres("reading the roles", &error);
    let row = sqlx::query(
        "select case when rolcanlogin then 'may log in' else 'may not log in' end
             || format(', %s connections', rolconnlimit)
             || case when rolsuper then ', superuser' else '' end
             || case when rolcreatedb then ', creates databases' else '' end
             || case when rolcreaterole then ', creates roles' else '' end
             || case when rolreplication then ', replicates' else '' end
             || case when rolbypassrls then ', bypasses row security' else '' end
             || case when rolinherit then ', inherits' else '' end
         from pg_roles where rolname = $1",
    )
    .bind(name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(fault)?;
    let Some(row) = row else { return Ok(None) };
    let mut live: String = row.try_get(0).map_err(fault)?;
    for parent in memberships(connection, name).await? {
        live.push_str(", member of ");
        live.push_str(&parent);
    }
    Ok(Some(live))
}

async fn memberships(connection: &mut PgConnection, name: &str) -> Result<Vec<String>, Fault> {
    sqlx::query_scalar(
        "select distinct parent.rolname::text from pg_auth_members m
         join pg_roles parent on parent.oid = m.roleid join pg_roles member on member.oid = m.member
         where member.rolname = $1 order by 1",
    )
    .bind(name)
    .fetch_all(connection)
    .await
    .map_err(|error| Fault::postgres("reading the memberships of roles", &error))
}

/// Compares the roles with the matrix.
pub(super) async fn inspect_roles(
    admin: &Admin<'_>,
    matrix: &Matrix,
    root: &mut PgConnection,
) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    for (role, declared) in &matrix.role {
        let name = admin.full(role);
        let live = live_role(root, &name).await?;
        let item = |aspect: &str, declared: String, live| Item {
            kind: Kind::Role,
            name: name.clone(),
            aspect: aspect.to_owned(),
            declared: Some(declared),
            live,
        };
        items.push(item("attributes", attributes(declared), live));
        let login = logins::find(&admin.settings.databases, role)?.map(|_| "present".to_owned());
        items.push(item("login file", "present".to_owned(), login));
    }
    Ok(items)
}

/// Grants missing privileges, and revokes undeclared ones from every grantee.
pub(super) async fn apply_grants(
    admin: &Admin<'_>,
    matrix: &Matrix,
    database: &str,
    connection: &mut PgConnection,
    changes: &mut Vec<String>,
) -> Result<(), Fault> {
    for (holding, wanted, live) in compare(admin, matrix, database, connection).await? {
        for privilege in live.difference(&wanted) {
            run(connection, statement("REVOKE", &holding, privilege, "FROM")).await?;
            changes.push(format!(
                "revoked {privilege} on {} from {}",
                describe(&holding),
                holding.grantee
            ));
        }
        for privilege in wanted.difference(&live) {
            run(connection, statement("GRANT", &holding, privilege, "TO")).await?;
            changes.push(format!(
                "granted {privilege} on {} to {}",
                describe(&holding),
                holding.grantee
            ));
        }
    }
    Ok(())
}

/// Compares the grants of one database with the matrix.
pub(super) async fn inspect_grants(
    admin: &Admin<'_>,
    matrix: &Matrix,
    database: &str,
    connection: &mut PgConnection,
) -> Result<Vec<Item>, Fault> {
    let list = |privileges: BTreeSet<String>| {
        (!privileges.is_empty()).then(|| privileges.into_iter().collect::<Vec<_>>().join(", "))
    };
    let compared = compare(admin, matrix, database, connection).await?;
    let item = |(holding, wanted, live): (Holding, _, _)| Item {
        kind: Kind::Grant,
        name: format!("{} {}", admin.full(database), describe(&holding)),
        aspect: holding.grantee,
        declared: list(wanted),
        live: list(live),
    };
    Ok(compared.into_iter().map(item).collect())
}

type Compared = Vec<(Holding, BTreeSet<String>, BTreeSet<String>)>;

async fn compare(
    admin: &Admin<'_>,
    matrix: &Matrix,
    database: &str,
    connection: &mut PgConnection,
) -> Result<Compared, Fault> {
    let existing = objects(connection).await?;
    let mut live = live_privileges(connection).await?;
    let mut compared = Compared::new();
    for (holding, wanted) in matrix.privileges(admin, database, &existing) {
        let live = live.remove(&holding).unwrap_or_default();
        compared.push((holding, wanted, live));
    }
    compared.extend(
        live.into_iter()
            .map(|(holding, live)| (holding, BTreeSet::new(), live)),
    );
    Ok(compared)
}

/// Tables and sequences of the schema `public`, without those of extensions and of the migrator.
async fn objects(connection: &mut PgConnection) -> Result<Vec<(Object, String)>, Fault> {
    let fault = |error| Fault::postgres("reading the tables", &error);
    let rows = sqlx::query(
        "select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname::text
         from pg_class c
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
           and c.relname not like '\\_sqlx\\_migrations%'
           and not exists (select from pg_depend d
                           where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')",
    )
    .fetch_all(connection)
    .await
    .map_err(fault)?;
    let mut objects = Vec::with_capacity(rows.len());
    for row in &rows {
        let kind: String = row.try_get(0).map_err(fault)?;
        objects.extend(Object::parse(&kind).zip(row.try_get(1).ok()));
    }
    Ok(objects)
}

/// Privileges of every role but the owner on this database, its schema `public` and the objects in it.
async fn live_privileges(connection: &mut PgConnection) -> Result<Privileges, Fault> {
    let fault = |error| Fault::postgres("reading the grants", &error);
    let rows = sqlx::query(LIVE_PRIVILEGES)
        .fetch_all(connection)
        .await
        .map_err(fault)?;
    let mut live = Privileges::new();
    for row in &rows {
        let kind: String = row.try_get(0).map_err(fault)?;
        let Some(object) = Object::parse(&kind) else {
            continue;
        };
        let (name, grantee) = (row.try_get(1).map_err(fault)?, row.try_get(2).map_err(fault)?);
        let privilege = row.try_get(3).map_err(fault)?;
        live.entry(Holding {
            object,
            name,
            grantee,
        })
        .or_default()
        .insert(privilege);
    }
    Ok(live)
}

/// An access list that is null stands for PostgreSQL's defaults (PUBLIC may connect to a database and run a function),
/// which `acldefault` spells out.
const LIVE_PRIVILEGES: &str = "
with held (kind, name, owner, grant_) as (
    select 'database', d.datname::text, d.datdba, a
    from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    where d.datname = current_database()
    union all
    select 'schema', n.nspname::text, n.nspowner, a
    from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    where n.nspname = 'public'
    union all
    select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname::text, c.relowner, a
    from pg_class c,
         aclexplode(coalesce(c.relacl, acldefault((case c.relkind when 'S' then 's' else 'r' end)::\"char\", c.relowner))) a
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    union all
    select 'function', p.proname::text, p.proowner, a
    from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = 'public'::regnamespace
      and not exists (select from pg_depend d
                      where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
)
select kind, name, coalesce(r.rolname::text, 'PUBLIC'),
       (grant_).privilege_type || case when (grant_).is_grantable then ' WITH GRANT OPTION' else '' end
from held left join pg_roles r on r.oid = (grant_).grantee
where (grant_).grantee <> owner
union all
select 'table', c.relname::text, coalesce(r.rolname::text, 'PUBLIC'),
       a.privilege_type || '(' || t.attname || ')' || case when a.is_grantable then ' WITH GRANT OPTION' else '' end
from pg_attribute t
join pg_class c on c.oid = t.attrelid
cross join aclexplode(t.attacl) a
left join pg_roles r on r.oid = a.grantee
where c.relnamespace = 'public'::regnamespace and not t.attisdropped and a.grantee <> c.relowner";

fn describe(holding: &Holding) -> String {
    format!("{} {}", holding.object.as_str(), holding.name)
}

fn statement(verb: &str, holding: &Holding, privilege: &str, preposition: &str) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    // Revoking a privilege revokes its grant option too.
    let privilege = privilege.trim_end_matches(" WITH GRANT OPTION");
    let privilege = match privilege.split_once('(') {
        Some((privilege, column)) => format!("{privilege} ({})", quote(column.trim_end_matches(')'))),
        None => privilege.to_owned(),
    };
    let name = match holding.object {
        Object::Database | Object::Schema => quote(&holding.name),
        Object::Table | Object::Sequence | Object::Function => format!("public.{}", quote(&holding.name)),
    };
    let grantee = if holding.grantee == PUBLIC {
        PUBLIC.to_owned()
    } else {
        quote(&holding.grantee)
    };
    format!(
        "{verb} {privilege} ON {} {name} {preposition} {grantee}",
        holding.object.as_str().to_uppercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_keeps_the_compartments_apart() {
        let matrix = Matrix::declared().expect("the embedded file is right");
        let databases: Vec<_> = matrix.databases().collect();
        assert_eq!(databases, ["analytics", "audit", "operations", "vault"]);
        for (name, role) in &matrix.role {
            let compartment = name.rsplit('_').next().unwrap_or_default();
            assert_eq!(
                compartment, role.database,
                "a role's name ends in its compartment"
            );
            assert!(role.connections_max > 0, "{name} has a limit of connections");
        }
        let audit = matrix.role.values().filter(|role| role.database == "audit");
        for (table, privilege) in audit
            .flat_map(|role| &role.tables)
            .flat_map(|(table, privileges)| {
                privileges
                    .iter()
                    .map(move |privilege| (table.as_str(), privilege.as_str()))
            })
        {
            // Heads of lanes and offsets are compared and swapped, column by column.
            let head = ["audit_lane", "sink_offset"].contains(&table) && privilege.starts_with("UPDATE(");
            assert!(
                head || ["SELECT", "INSERT"].contains(&privilege),
                "the audit log is append-only: {privilege} on {table}"
            );
        }
    }

    #[test]
    fn statements_quote_every_name() {
        let holding = Holding {
            object: Object::Table,
            name: "odd\"name".to_owned(),
            grantee: "pulsegate_gate_vault".to_owned(),
        };
        assert_eq!(
            statement("GRANT", &holding, "UPDATE(encryptions)", "TO"),
            "GRANT UPDATE (\"encryptions\") ON TABLE public.\"odd\"\"name\" TO \"pulsegate_gate_vault\""
        );
        let everyone = Holding {
            object: Object::Schema,
            name: "public".to_owned(),
            grantee: PUBLIC.to_owned(),
        };
        assert_eq!(
            statement("REVOKE", &everyone, "USAGE WITH GRANT OPTION", "FROM"),
            "REVOKE USAGE ON SCHEMA \"public\" FROM PUBLIC"
        );
    }

    #[test]
    fn a_verifier_is_scram_and_not_the_password() {
        let verifier = verifier("r", "postgres://r:s3cr%40t@127.0.0.1/d").expect("a login");
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && !verifier.contains("s3cr"));
        assert!(self::verifier("r", "postgres://other:s3cret@127.0.0.1/d").is_err());
        assert!(self::verifier("r", "postgres://r@127.0.0.1/d").is_err());
    }
}

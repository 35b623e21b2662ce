//! The name of the host, as the kernel knows it.

/// The host's name; `None` where it is empty or not UTF-8.
#[must_use]
pub fn name() -> Option<String> {
    let names = rustix::system::uname();
    let name = names.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

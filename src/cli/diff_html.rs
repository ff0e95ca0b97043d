pub(crate) fn write(
    _f: &std::path::Path,
    _p: &super::diff::Pair<'_>,
    _d: &[imgmount::analysis::diff::Difference],
) -> anyhow::Result<()> {
    Ok(())
}

//! What is shipped beside the programs, as a stranger meets it.

#[path = "shipped/compatible.rs"]
mod compatible;
#[path = "shipped/dashboards.rs"]
mod dashboards;
#[path = "shipped/dependencies.rs"]
mod dependencies;
#[path = "shipped/documents.rs"]
mod documents;
#[path = "shipped/examples.rs"]
mod examples;
#[path = "shipped/packages.rs"]
mod packages;
#[path = "shipped/page.rs"]
mod page;
#[path = "shipped/released.rs"]
mod released;

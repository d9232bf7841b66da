//! The service type that words tell which people wrote: the label of a port, the name of a variable.

use super::text::words;

/// The first row with one of the words decides: an API server is an API.
const WORDS: [(&str, &[&str]); 12] = [
    ("storybook", &["storybook"]),
    ("docs", &["docs", "documentation", "docusaurus", "mkdocs", "vitepress"]),
    ("monitoring", &["grafana", "jaeger", "kibana", "metrics", "prometheus", "zipkin"]),
    (
        "ui",
        &[
            "adminer",
            "chainlit",
            "gradio",
            "jupyter",
            "pgadmin",
            "phpmyadmin",
            "streamlit",
            "studio",
        ],
    ),
    (
        "database",
        &[
            "database",
            "db",
            "mariadb",
            "mongo",
            "mongodb",
            "mssql",
            "mysql",
            "pg",
            "pgport",
            "postgres",
            "postgresql",
            "sqlserver",
        ],
    ),
    ("infrastructure", &["cache", "memcached", "redis", "valkey"]),
    ("messaging", &["amqp", "kafka", "nats", "rabbitmq"]),
    ("auth", &["keycloak"]),
    ("ai", &["ollama"]),
    ("api", &["api", "backend", "graphql", "rest"]),
    (
        "dev",
        &[
            "app",
            "application",
            "client",
            "dev",
            "front",
            "frontend",
            "next",
            "nuxt",
            "site",
            "vite",
            "web",
            "webapp",
            "website",
        ],
    ),
    ("api", &["server"]),
];

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(service_type, _)| *service_type)
}

pub(super) fn service_type(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let has = |known: &[&str]| words(&text).any(|word| known.contains(&word));
    WORDS.iter().find(|(_, known)| has(known)).map(|(service_type, _)| *service_type)
}

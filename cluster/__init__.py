"""Where entities live: store, hosts, supervisor and router, on Ray and Postgres."""

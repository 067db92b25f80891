//! Who may call what over TLS, and with certificates that are good, of another CA, expired, or of nobody.

use driftdb::client::{ClientTls, connect_with};
use time::Duration;

use crate::access_matrix::{CALLERS, Need, expected, fill, matrix, principals};
use crate::harness::access::SecuredCluster;
use crate::harness::certificates::TestCa;
use crate::harness::reason;
use crate::harness::secure_cluster::SecureFiles;

/// What a caller with the certificate of the principal `of_certificate` gets: without a token, what the certificate's principal does.
fn expected_with_certificate(need: Need, caller: &str) -> &'static str {
    match caller {
        "none" => expected(need, "write"),
        other => expected(need, other),
    }
}

#[tokio::test]
#[ignore = "slow"]
async fn the_matrix_holds_over_tls() {
    let cluster = SecuredCluster::start_with_tls(SecureFiles::new(), false, &principals());
    fill(&cluster).await;
    let (writer, reader) = (cluster.channel(&cluster.writer).await, cluster.channel(&cluster.reader).await);
    let (_, wrong) = matrix("TLS", (&writer, &reader), expected).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
#[ignore = "slow"]
async fn the_matrix_holds_with_client_certificates() {
    let files = SecureFiles::new();
    let of_certificate = "[[principal]]\nname = \"of_certificate\"\n\
                          grants = [{ tables = [\"t*\"], role = \"write\" }]\ncertificates = [\"CN=client\"]\n";
    let dir = files.dir.path().to_owned();
    let hour = Duration::hours(1);
    let nobody = files.ca.client(&dir, "nobody", hour).of_client(&files.trusted);
    let refused = [
        ("mTLS, a CA that is not trusted", TestCa::new("other").client(&dir, "client2", hour)),
        ("mTLS, expired", files.ca.client(&dir, "client3", Duration::hours(-1))),
    ];
    let refused = refused.map(|(title, files_of_client)| (title, files_of_client.of_client(&files.trusted)));
    let without = ClientTls::new(&files.trusted);
    let mut rules = principals();
    rules.push(of_certificate.to_owned());
    let cluster = SecuredCluster::start_with_tls(files, true, &rules);
    fill(&cluster).await;

    let (writer, reader) = (cluster.channel(&cluster.writer).await, cluster.channel(&cluster.reader).await);
    let (_, mut wrong) = matrix("mTLS, good", (&writer, &reader), expected_with_certificate).await;
    // A good certificate that the rules do not name is as none. The tables that the first matrix dropped are made again.
    let mut root = cluster.writer_as("root").await;
    for caller in CALLERS {
        for table in [format!("t_drop_{caller}"), format!("t_gone_{caller}")] {
            let request =
                driftdb::v1::CreateTableRequest { table, if_not_exists: true, ..Default::default() };
            root.create_table(request).await.unwrap();
        }
        for table in [format!("t_new_{caller}"), format!("t_made_{caller}")] {
            // Not every caller could create them.
            let _ = root.drop_table(driftdb::v1::DropTableRequest { table, options: None }).await;
        }
        for index in [format!("i_{caller}"), format!("j_{caller}")] {
            let request = driftdb::v1::AlterTableRequest {
                table: "t".into(),
                drop_indexes: vec![index],
                ..Default::default()
            };
            let _ = root.alter_table(request).await;
        }
    }
    let writer = connect_with(&cluster.writer.url, Some(&nobody)).await.unwrap();
    let reader = connect_with(&cluster.reader.url, Some(&nobody)).await.unwrap();
    wrong.extend(matrix("mTLS, wrong name", (&writer, &reader), expected).await.1);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // With a certificate that is not accepted there is no connection, so every cell of these matrices is the same.
    let mut refused = Vec::from(refused);
    refused.push(("mTLS, no certificate", without));
    for (title, tls) in refused {
        for daemon in [&cluster.writer, &cluster.reader] {
            let status = connect_with(&daemon.url, Some(&tls)).await.unwrap_err();
            assert_eq!(reason(&status), "TLS_FAILED", "{title}: {status}");
        }
        println!("{title:<44} every method, every caller: TLS_FAILED");
    }
}

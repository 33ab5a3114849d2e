use std::path::PathBuf;
use std::sync::Arc;

use tunnel_cli::health::Health;
use tunnel_cli::signals::{self, Ending, Reload};
use tunnel_cli::{Failure, Outcome, rules};
use tunnel_iroh::{Endpoint, OnBound};
use tunnel_session::transport::Role;
use tunnel_vpn::device::{Device, TunDevice};
use tunnel_vpn::engine::{EngineConfig, Role as End};
use tunnel_vpn::join::Join;
use tunnel_vpn::network::{Overlap, STATE_DIR, ServerNetwork, ServerPlan, overlap};
use tunnel_vpn::pool::Pool;
use tunnel_vpn::service::VpnService;

use super::{carry, clear_leftovers, device_gone, list, ports};
use crate::cli::print;
use crate::cli::server::{Host, Rules, require_tokens};
use crate::config::server::HostConfig;
use crate::config::vpn::{VpnServerArgs, VpnServerConfig};

pub(super) async fn run(args: VpnServerArgs) -> Outcome {
    let config = args.resolve()?;
    let VpnServerConfig { host, rules: source, networks, server_ips, .. } = config;
    let HostConfig { mut endpoint, limits, drain, health } = host;
    let look = rules::Look::at(&source.files());
    let policy = source.load()?;
    require_tokens(&policy)?;
    let pool = Pool::new(&networks, &server_ips).map_err(Failure::usage)?;
    let ending = signals::ending(drain).map_err(Failure::failed)?;
    let reload = Reload::new().map_err(Failure::failed)?;
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;

    // First: what it says where this process is not root is what a user can do something with.
    let device = TunDevice::create(config.mtu).map_err(Failure::failed)?;
    clear_leftovers(None)?;
    if let Some(overlap) = overlap(&networks, Some(&device)).map_err(Failure::failed)? {
        let Overlap { wanted, existing, device } = overlap;
        let at = device.map(|device| format!(" ({device})")).unwrap_or_default();
        return Err(Failure::Failed(format!(
            "the VPN's network {wanted} overlaps with {existing}, which this machine has already{at}: give another --network"
        )));
    }
    let addresses = pool.server_addresses().to_vec();
    let plan = ServerPlan {
        addresses: addresses.clone(),
        forward: source.allow_routes(),
        masquerade: config.masquerade,
        state: PathBuf::from(STATE_DIR),
    };
    // Undone when dropped, whatever follows.
    let _network = ServerNetwork::apply(&device, &plan).map_err(Failure::failed)?;
    let engine = EngineConfig {
        role: End::Server,
        addresses: addresses.clone(),
        client_to_client: config.client_to_client,
    };
    let (join, handle) = Join::new(engine);
    let capacity = pool.capacity();
    let service = VpnService::new(pool, handle.clone(), config.mtu);

    let own = endpoint.own_infrastructure();
    endpoint.hidden.clone_from(&networks);
    endpoint.on_bound =
        Some(OnBound::new(move |sockets| handle.set_transport_ports(ports(sockets))));
    let endpoint = Endpoint::bind(endpoint, Role::Server).await.map_err(Failure::failed)?;
    print(&format!("VPN Server Node ID: {}", endpoint.id()))?;
    tracing::info!(
        "VPN {} on {}: address {}, MTU {}, room for {capacity} clients",
        list(&networks),
        device.name(),
        list(&addresses),
        config.mtu
    );
    let again = source.clone();
    let command = "vpn client --ticket TICKET";
    let host = Host { endpoint, own, limits, reload, health, command };
    let rules = Rules { policy, look, files: move || source.files(), load: move || again.load() };

    let (carrying, over) = carry(join, &device);
    // Without its device a server is of no use to anybody.
    let either = Ending { drain: ending.drain.clone(), end: ending.end.child_token() };
    let watch = tokio::spawn({
        let end = either.end.clone();
        async move {
            over.cancelled().await;
            end.cancel();
        }
    });
    let served = host.serve(rules, Some(Arc::new(service)), &either).await;
    watch.abort();
    if ending.end.is_cancelled() {
        carrying.abort();
        return served;
    }
    served.and(device_gone(carrying, device.name()).await)
}

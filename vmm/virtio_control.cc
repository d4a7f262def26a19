// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/virtio_control.h"

#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/queue_error.h"
#include "cloister/memory/shared_view.h"

namespace cloister::vmm {

namespace virtio = devices::virtio;

namespace {

// Those of Firecracker's API, by tag (BalloonStat).
constexpr const char* kStatNames[] = {
    "swap_in",          "swap_out",    "major_faults",
    "minor_faults",     "free_memory", "total_memory",
    "available_memory", "disk_caches", "hugetlb_allocations",
    "hugetlb_failures",
};
static_assert(std::size(kStatNames) == virtio::kBalloonStatCount);

template <typename Device>
absl::StatusOr<Device*> Find(const std::vector<Device*>& devices,
                             const char* kind, absl::string_view id) {
  for (Device* device : devices) {
    if (device->name() == id) return device;
  }
  return absl::NotFoundError(absl::StrCat("there is no ", kind, " ", id));
}

absl::Status CheckLimit(const devices::RateLimiterUpdate& update,
                        absl::string_view what) {
  if (update.bandwidth.has_value()) {
    RETURN_IF_ERROR(devices::ValidateTokenBucket(
        *update.bandwidth, absl::StrCat(what, ": bandwidth")));
  }
  if (update.operations.has_value()) {
    RETURN_IF_ERROR(devices::ValidateTokenBucket(*update.operations,
                                                 absl::StrCat(what, ": ops")));
  }
  return absl::OkStatus();
}

bool Changes(const devices::RateLimiterUpdate& update) {
  return update.bandwidth.has_value() || update.operations.has_value();
}

std::string ErrnoCounter(int error) {
  const char* name = ::strerrorname_np(error);
  return name == nullptr ? absl::StrCat("errors_", error)
                         : absl::StrCat("errors_", name);
}

DeviceCounters DiskCounters(const virtio::Blk& blk) {
  const virtio::BlkCounters now = blk.counters();
  uint64_t errors = 0;
  for (const auto& [number, count] : now.errors) errors += count;
  auto refused = [&now](virtio::BlkRefusal why) {
    return now.refusals[static_cast<size_t>(why)];
  };
  DeviceCounters all = {
      absl::StrCat("block_", blk.name()),
      {{"reads", now.reads},
       {"read_bytes", now.read_bytes},
       {"writes", now.writes},
       {"written_bytes", now.written_bytes},
       {"flushes", now.flushes},
       {"ids", now.ids},
       {"discards", now.discards},
       {"write_zeroes", now.write_zeroes},
       {"errors", errors},
       {"refused", now.refused},
       {"refused_off_disk", refused(virtio::BlkRefusal::kOffDisk)},
       {"refused_unaligned", refused(virtio::BlkRefusal::kUnaligned)},
       {"refused_read_only", refused(virtio::BlkRefusal::kReadOnly)},
       {"refused_malformed", refused(virtio::BlkRefusal::kMalformed)},
       {"refused_unsupported", refused(virtio::BlkRefusal::kUnsupported)},
       {"throttled", now.throttled},
       {"bounced", now.bounced}},
      {{"in_flight", now.in_flight}, {"disk_bytes", blk.size()}}};
  for (const auto& [number, count] : now.errors) {
    all.counters.emplace_back(ErrnoCounter(number), count);
  }
  return all;
}

DeviceCounters NetCounters(const virtio::Net& net) {
  const virtio::NetCounters& now = net.counters();
  return {absl::StrCat("net_", net.name()),
          {{"rx_packets", now.rx_packets.value()},
           {"rx_bytes", now.rx_bytes.value()},
           {"tx_packets", now.tx_packets.value()},
           {"tx_bytes", now.tx_bytes.value()},
           {"rx_dropped_too_long", now.rx_dropped_too_long.value()},
           {"rx_no_buffers", now.rx_no_buffers.value()},
           {"tx_dropped_malformed", now.tx_dropped_malformed.value()},
           {"tx_dropped_tap", now.tx_dropped_tap.value()},
           {"tx_busy", now.tx_busy.value()},
           {"tap_errors", now.tap_errors.value()},
           {"control_commands", now.control_commands.value()},
           {"control_refused", now.control_refused.value()},
           {"link_down", now.link_down.value()},
           {"rx_throttled", net.rx_throttled()},
           {"tx_throttled", net.tx_throttled()}},
          {{"link_up", net.link_up() ? 1 : 0}}};
}

DeviceCounters VsockCounters(const virtio::Vsock& vsock) {
  const virtio::VsockCounters& now = vsock.counters();
  return {"vsock",
          {{"rx_packets", now.rx_packets.value()},
           {"rx_bytes", now.rx_bytes.value()},
           {"tx_packets", now.tx_packets.value()},
           {"tx_bytes", now.tx_bytes.value()},
           {"opened_by_host", now.opened_by_host.value()},
           {"opened_by_guest", now.opened_by_guest.value()},
           {"closed", now.closed.value()},
           {"clients_refused", now.clients_refused.value()},
           {"tx_malformed", now.tx_malformed.value()},
           {"tx_bad_cid", now.tx_bad_cid.value()},
           {"tx_no_connection", now.tx_no_connection.value()},
           {"tx_out_of_turn", now.tx_out_of_turn.value()},
           {"tx_over_credit", now.tx_over_credit.value()},
           {"connect_failed", now.connect_failed.value()},
           {"resets_sent", now.resets_sent.value()},
           {"resets_dropped", now.resets_dropped.value()},
           {"timeouts", now.timeouts.value()},
           {"socket_errors", now.socket_errors.value()},
           {"rx_throttled", vsock.rx_throttled()},
           {"tx_throttled", vsock.tx_throttled()}},
          {}};
}

DeviceCounters RngCounters(const virtio::Rng& rng) {
  const virtio::Rng::Counters now = rng.counters();
  return {"entropy",
          {{"requests", now.requests},
           {"bytes", now.bytes},
           {"source_errors", now.source_errors},
           {"throttled", now.throttled}},
          {}};
}

DeviceCounters BalloonCounters(const virtio::Balloon& balloon) {
  const virtio::Balloon::Counters now = balloon.counters();
  return {
      "balloon",
      {{"inflated_pages", now.inflated_pages},
       {"deflated_pages", now.deflated_pages},
       {"refused_pages", now.refused_pages},
       {"reported_bytes", now.reported_bytes},
       {"reports_ignored", now.reports_ignored},
       {"errors", now.errors},
       {"stats_updates", now.stats_updates}},
      {{"target_bytes", balloon.target()}, {"actual_bytes", balloon.actual()}}};
}

DeviceCounters ConsoleCounters(const virtio::Console& console) {
  const virtio::Console::Counters now = console.counters();
  return {"console",
          {{"tx_bytes", now.tx_bytes},
           {"rx_bytes", now.rx_bytes},
           {"tx_waits", now.tx_waits},
           {"throttled", now.throttled},
           {"emergency_bytes", now.emergency_bytes}},
          {}};
}

}  // namespace

void VirtioControl::Add(virtio::Blk* blk) {
  disks_.push_back(blk);
  counters_.push_back([blk] { return DiskCounters(*blk); });
}

void VirtioControl::Add(virtio::Net* net) {
  nets_.push_back(net);
  counters_.push_back([net] { return NetCounters(*net); });
}

void VirtioControl::Add(virtio::Vsock* vsock) {
  counters_.push_back([vsock] { return VsockCounters(*vsock); });
}

void VirtioControl::Add(virtio::Rng* rng) {
  counters_.push_back([rng] { return RngCounters(*rng); });
}

void VirtioControl::Add(virtio::Balloon* balloon) {
  balloon_ = balloon;
  counters_.push_back([balloon] { return BalloonCounters(*balloon); });
}

void VirtioControl::Add(virtio::Console* console) {
  console_ = console;
  counters_.push_back([console] { return ConsoleCounters(*console); });
}

absl::Status VirtioControl::UpdateDisk(absl::string_view id,
                                       const DiskUpdate& update) {
  ASSIGN_OR_RETURN(virtio::Blk * blk, Find(disks_, "drive", id));
  // First what can be refused without a trace.
  RETURN_IF_ERROR(CheckLimit(update.limit, "rate_limiter"));
  if (update.path.has_value()) {
    virtio::DiskFileOptions file = blk->file();
    file.path = *update.path;
    RETURN_IF_ERROR(blk->UpdateFile(file));
  }
  if (!Changes(update.limit)) return absl::OkStatus();
  return blk->UpdateLimit(update.limit);
}

absl::Status VirtioControl::UpdateNet(absl::string_view id,
                                      const NetUpdate& update) {
  ASSIGN_OR_RETURN(virtio::Net * net, Find(nets_, "network interface", id));
  RETURN_IF_ERROR(CheckLimit(update.rx_limit, "rx_rate_limiter"));
  RETURN_IF_ERROR(CheckLimit(update.tx_limit, "tx_rate_limiter"));
  if (Changes(update.rx_limit)) {
    RETURN_IF_ERROR(net->UpdateRxLimit(update.rx_limit));
  }
  if (!Changes(update.tx_limit)) return absl::OkStatus();
  return net->UpdateTxLimit(update.tx_limit);
}

absl::Status VirtioControl::SetBalloonTarget(uint64_t bytes) {
  if (balloon_ == nullptr) return absl::NotFoundError("there is no balloon");
  return balloon_->SetTarget(bytes);
}

absl::Status VirtioControl::SetBalloonStatsInterval(
    std::chrono::seconds interval) {
  if (balloon_ == nullptr) return absl::NotFoundError("there is no balloon");
  return balloon_->SetStatsInterval(interval);
}

absl::StatusOr<BalloonStatus> VirtioControl::Balloon() const {
  if (balloon_ == nullptr) return absl::NotFoundError("there is no balloon");
  BalloonStatus status;
  status.target = balloon_->target();
  status.actual = balloon_->actual();
  status.stats_interval = balloon_->stats_interval();
  const virtio::BalloonStats stats = balloon_->stats();
  for (size_t i = 0; i < stats.size(); ++i) {
    if (stats[i].has_value()) {
      status.guest.emplace_back(kStatNames[i], *stats[i]);
    }
  }
  return status;
}

std::vector<DeviceCounters> VirtioControl::counters() const {
  std::vector<DeviceCounters> all;
  all.reserve(counters_.size());
  for (const auto& read : counters_) all.push_back(read());
  return all;
}

void AddTransportCounters(const virtio::DeviceState::Counters& transport,
                          NamedValues* counters) {
  uint64_t needs_reset = 0;
  for (uint64_t count : transport.needs_reset) needs_reset += count;
  counters->insert(counters->end(),
                   {{"activations", transport.activations},
                    {"resets", transport.resets},
                    {"features_refused", transport.features_refused},
                    {"bad_writes", transport.bad_writes},
                    {"exit_kicks", transport.kicks},
                    {"needs_reset", needs_reset}});
  // Why, as far as it happened; the last one is other errors.
  for (size_t i = 0; i < transport.needs_reset.size(); ++i) {
    if (transport.needs_reset[i] == 0) continue;
    const absl::string_view reason =
        i < virtio::kQueueErrorCount
            ? virtio::QueueErrorName(static_cast<virtio::QueueError>(i))
            : absl::string_view("other");
    counters->emplace_back(
        absl::StrCat("needs_reset_", absl::StrReplaceAll(reason, {{"-", "_"}})),
        transport.needs_reset[i]);
  }
  // What was wrong with memory that was not shared: "not_shared_half_private".
  for (size_t i = 0; i < transport.not_shared.size(); ++i) {
    if (transport.not_shared[i] == 0) continue;
    const absl::string_view kind =
        memory::ShareRefusalName(static_cast<memory::ShareRefusal>(i));
    counters->emplace_back(
        absl::StrCat("not_shared_", absl::StrReplaceAll(kind, {{"-", "_"}})),
        transport.not_shared[i]);
  }
}

}  // namespace cloister::vmm

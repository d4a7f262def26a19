// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_muxer.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint32_t kFirstHostPort = uint32_t{1} << 30;

}  // namespace

std::optional<uint32_t> ParseConnectLine(absl::string_view line) {
  constexpr absl::string_view kVerb = "connect ";
  if (!absl::StartsWithIgnoreCase(line, kVerb)) return std::nullopt;
  line.remove_prefix(kVerb.size());
  const bool digits = !line.empty() && std::all_of(line.begin(), line.end(),
                                                   absl::ascii_isdigit);
  uint32_t port;
  if (!digits || !absl::SimpleAtoi(line, &port) || port == kVsockAnyPort) {
    return std::nullopt;
  }
  return port;
}

absl::StatusOr<std::unique_ptr<VsockMuxer>> VsockMuxer::Create(
    base::EventLoop& loop, const Options& options, VsockListener& listener,
    VsockCounters& counters, std::function<void()> on_activity) {
  std::unique_ptr<VsockMuxer> muxer(new VsockMuxer(
      loop, options, listener, counters, std::move(on_activity)));
  ASSIGN_OR_RETURN(muxer->timer_,
                   RateLimiterTimer::Create(
                       loop, [muxer = muxer.get()] { muxer->OnTimer(); }));
  return muxer;
}

absl::Status VsockMuxer::Start() {
  RETURN_IF_ERROR(loop_.Add(listener_.fd(), EPOLLIN,
                            [this](uint32_t) { OnListenerReady(); }));
  started_ = true;
  return absl::OkStatus();
}

void VsockMuxer::Stop() {
  if (started_) loop_.Remove(listener_.fd());
  started_ = false;
  while (!connections_.empty()) Remove(connections_.begin()->first);
  while (!drains_.empty()) EndDrain(drains_.begin()->first);
  while (!clients_.empty()) RefuseClient(clients_.begin()->first);
  ready_.clear();
  resets_.clear();
  if (timer_ != nullptr) timer_->Disarm();
}

// --- The host's side.

void VsockMuxer::OnListenerReady() {
  absl::StatusOr<base::UniqueFd> socket = listener_.Accept();
  if (!socket.ok()) {
    if (absl::IsUnavailable(socket.status())) return;
    counters_.socket_errors.Add();
    // Out of descriptors, most likely: try again later rather than spin.
    loop_.Remove(listener_.fd());
    started_ = false;
    timer_->Arm(options_.patience);
    return;
  }
  if (Full()) {
    counters_.clients_refused.Add();
    return;
  }
  AddClient(*std::move(socket));
}

void VsockMuxer::AddClient(base::UniqueFd socket) {
  const int fd = socket.get();
  if (!loop_.Add(fd, EPOLLIN, [this, fd](uint32_t) { OnClientReady(fd); })
           .ok()) {
    counters_.clients_refused.Add();
    return;
  }
  clients_[fd] = {std::move(socket), Clock::now() + options_.patience, ""};
  ArmTimer();
}

void VsockMuxer::RefuseClient(int fd) {
  counters_.clients_refused.Add();
  loop_.Remove(fd);
  clients_.erase(fd);
}

void VsockMuxer::OnClientReady(int fd) {
  const auto at = clients_.find(fd);
  if (at == clients_.end()) return;
  switch (TakeLine(fd, at->second.line)) {
    case Line::kPartial:
      return;
    case Line::kBad:
      RefuseClient(fd);
      return;
    case Line::kWhole:
      break;
  }
  const std::optional<uint32_t> port = ParseConnectLine(at->second.line);
  if (!port.has_value()) {
    RefuseClient(fd);
    return;
  }
  loop_.Remove(fd);
  base::UniqueFd socket = std::move(at->second.socket);
  clients_.erase(at);
  Ask(std::move(socket), *port);
  on_activity_();
}

VsockMuxer::Line VsockMuxer::TakeLine(int fd, std::string& line) {
  // Looks first: what follows the line belongs to the guest.
  std::array<char, kMaxLine> buffer;
  const size_t room = buffer.size() - line.size();
  const ssize_t seen = base::RetryOnEintr(
      [&] { return ::recv(fd, buffer.data(), room, MSG_PEEK | MSG_DONTWAIT); });
  if (seen < 0 && errno == EAGAIN) return Line::kPartial;
  if (seen <= 0) return Line::kBad;
  const absl::string_view text(buffer.data(), seen);
  const size_t newline = text.find('\n');
  const bool whole = newline != absl::string_view::npos;
  const ssize_t wanted = whole ? static_cast<ssize_t>(newline) + 1 : seen;
  if (::recv(fd, buffer.data(), wanted, MSG_DONTWAIT) != wanted) {
    return Line::kBad;
  }
  line.append(buffer.data(), whole ? newline : wanted);
  if (whole) return Line::kWhole;
  return line.size() < kMaxLine ? Line::kPartial : Line::kBad;
}

uint32_t VsockMuxer::NewHostPort() {
  for (;;) {
    const uint32_t port = next_host_port_++;
    if (next_host_port_ == kVsockAnyPort) next_host_port_ = kFirstHostPort;
    // Fewer connections than ports: this ends.
    const auto at = connections_.lower_bound({port, 0});
    if (at == connections_.end() || at->first.host != port) return port;
  }
}

void VsockMuxer::Ask(base::UniqueFd socket, uint32_t guest_port) {
  VsockConnection& connection =
      AddConnection({NewHostPort(), guest_port}, std::move(socket),
                    VsockConnection::Origin::kHost);
  connection.set_deadline(Clock::now() + options_.patience);
  Refresh(connection);
}

VsockConnection& VsockMuxer::AddConnection(VsockPorts ports,
                                           base::UniqueFd socket,
                                           VsockConnection::Origin origin) {
  auto& slot = connections_[ports];
  slot = std::make_unique<VsockConnection>(ports, std::move(socket), origin,
                                           options_.drain, counters_);
  return *slot;
}

void VsockMuxer::Remove(VsockPorts ports) {
  const auto at = connections_.find(ports);
  if (at == connections_.end()) return;
  if (at->second->watched.has_value()) loop_.Remove(at->second->fd());
  // Its place in the line would be taken by the next of the same name.
  if (at->second->queued) std::erase(ready_, ports);
  connections_.erase(at);
  counters_.closed.Add();
}

void VsockMuxer::Drain(VsockPorts ports) {
  const auto at = connections_.find(ports);
  if (at == connections_.end()) return;
  const int fd = at->second->fd();
  if (at->second->watched.has_value()) loop_.Remove(fd);
  if (at->second->queued) std::erase(ready_, ports);
  drains_[fd] = std::move(at->second);
  connections_.erase(at);
  if (!loop_
           .Add(fd, EPOLLOUT,
                [this, fd](uint32_t events) { OnDrainReady(fd, events); })
           .ok()) {
    counters_.socket_errors.Add();
    drains_.erase(fd);
    counters_.closed.Add();
  }
  ArmTimer();
}

void VsockMuxer::OnDrainReady(int fd, uint32_t events) {
  const auto at = drains_.find(fd);
  if (at == drains_.end()) return;
  at->second->OnReady(events);
  if (!at->second->draining()) EndDrain(fd);
  ArmTimer();
}

void VsockMuxer::EndDrain(int fd) {
  loop_.Remove(fd);
  drains_.erase(fd);
  counters_.closed.Add();
}

void VsockMuxer::Refresh(VsockConnection& connection) {
  if (connection.HasPacket() && !connection.queued) {
    connection.queued = true;
    ready_.push_back(connection.ports());
  }
  Watch(connection);
  ArmTimer();
}

void VsockMuxer::Watch(VsockConnection& connection) {
  const std::optional<uint32_t> wanted = connection.events();
  if (wanted == connection.watched) return;
  const int fd = connection.fd();
  absl::Status status;
  if (!wanted.has_value()) {
    loop_.Remove(fd);
  } else if (connection.watched.has_value()) {
    status = loop_.Modify(fd, *wanted);
  } else {
    status = loop_.Add(fd, *wanted,
                       [this, ports = connection.ports()](uint32_t events) {
                         const auto at = connections_.find(ports);
                         if (at == connections_.end()) return;
                         at->second->OnReady(events);
                         Refresh(*at->second);
                         on_activity_();
                       });
  }
  connection.watched = wanted;
  if (status.ok()) return;
  counters_.socket_errors.Add();
  connection.watched.reset();
  connection.Abort();
  if (!connection.queued) {
    connection.queued = true;
    ready_.push_back(connection.ports());
  }
}

// --- Time.

void VsockMuxer::ArmTimer() {
  std::optional<Clock::time_point> first;
  const auto consider = [&first](Clock::time_point when) {
    if (!first.has_value() || when < *first) first = when;
  };
  for (const auto& [fd, client] : clients_) consider(client.deadline);
  for (const auto& [ports, connection] : connections_) {
    if (connection->deadline().has_value()) consider(*connection->deadline());
  }
  for (const auto& [fd, connection] : drains_) {
    consider(*connection->deadline());
  }
  if (!first.has_value()) {
    if (started_) timer_->Disarm();
    return;
  }
  timer_->Arm(std::max(*first - Clock::now(), Clock::duration(0)));
}

void VsockMuxer::EndLateDrains(Clock::time_point now) {
  std::vector<int> over;
  for (const auto& [fd, connection] : drains_) {
    if (*connection->deadline() > now) continue;
    if (!connection->PutOff(now)) {
      counters_.timeouts.Add();
      over.push_back(fd);
    } else if (!connection->draining()) {
      over.push_back(fd);
    }
  }
  for (int fd : over) EndDrain(fd);
}

void VsockMuxer::OnTimer() {
  if (!started_ && Start().ok()) OnListenerReady();
  const Clock::time_point now = Clock::now();
  std::vector<int> late_clients;
  for (const auto& [fd, client] : clients_) {
    if (client.deadline <= now) late_clients.push_back(fd);
  }
  counters_.timeouts.Add(late_clients.size());
  for (int fd : late_clients) RefuseClient(fd);
  std::vector<VsockPorts> unheard;
  for (const auto& [ports, connection] : connections_) {
    if (!connection->deadline().has_value() || *connection->deadline() > now) {
      continue;
    }
    if (!connection->PutOff(now)) {
      counters_.timeouts.Add();
      connection->Abort();
      if (!connection->announced()) unheard.push_back(ports);
    }
    Refresh(*connection);
  }
  // The guest took no packet since it came: it need not be told of the end.
  for (VsockPorts ports : unheard) Remove(ports);
  EndLateDrains(now);
  ArmTimer();
  on_activity_();
}

// --- The guest's side.

absl::Status VsockMuxer::FromGuest(const VsockHeader& header,
                                   uint64_t payload_room, Chain& chain) {
  counters_.tx_packets.Add();
  if (header.src_cid != options_.guest_cid || header.dst_cid != kVsockHostCid) {
    counters_.tx_bad_cid.Add();  // an answer would have nowhere to go
    return absl::OkStatus();
  }
  const bool valid = VsockHeaderIsValid(header, payload_room);
  if (!valid) counters_.tx_malformed.Add();
  const auto at = connections_.find({header.dst_port, header.src_port});
  if (at == connections_.end()) {
    if (!valid) {
      if (header.op != VsockOp::kReset) QueueReset(header);
      return absl::OkStatus();
    }
    return OnStray(header);
  }
  VsockConnection& connection = *at->second;
  if (valid && header.op == VsockOp::kReset) {
    const VsockPorts ports = connection.ports();
    if (connection.OnReset()) {
      Drain(ports);
    } else {
      Remove(ports);
    }
    return absl::OkStatus();
  }
  if (valid) {
    RETURN_IF_ERROR(connection.OnPacket(header, chain));
  } else {
    connection.Abort();
  }
  Refresh(connection);
  return absl::OkStatus();
}

absl::Status VsockMuxer::OnStray(const VsockHeader& header) {
  if (header.op == VsockOp::kReset) return absl::OkStatus();
  if (header.op == VsockOp::kRequest) {
    OnRequest(header);
  } else {
    counters_.tx_no_connection.Add();
    QueueReset(header);
  }
  return absl::OkStatus();
}

void VsockMuxer::OnRequest(const VsockHeader& header) {
  if (Full()) {
    counters_.connect_failed.Add();
    QueueReset(header);
    return;
  }
  absl::StatusOr<base::UniqueFd> socket =
      ConnectUnix(absl::StrCat(listener_.path(), "_", header.dst_port));
  if (!socket.ok()) {
    counters_.connect_failed.Add();
    QueueReset(header);
    return;
  }
  counters_.opened_by_guest.Add();
  VsockConnection& connection =
      AddConnection({header.dst_port, header.src_port}, *std::move(socket),
                    VsockConnection::Origin::kGuest);
  connection.TakeCredit(header);
  Refresh(connection);
}

void VsockMuxer::QueueReset(const VsockHeader& header) {
  if (resets_.size() >= kMaxResets) {
    counters_.resets_dropped.Add();
    return;
  }
  resets_.push_back({header.dst_port, header.src_port});
}

absl::StatusOr<std::optional<uint32_t>> VsockMuxer::ToGuest(
    Chain& chain, FlowLimiter& limiter) {
  if (!resets_.empty()) {
    const VsockPorts ports = resets_.front();
    resets_.pop_front();
    VsockHeader header;
    header.op = VsockOp::kReset;
    return Emit(ports, header, chain);
  }
  while (!ready_.empty()) {
    const VsockPorts ports = ready_.front();
    // What leaves connections_ has left ready_ before.
    VsockConnection& connection = *connections_.at(ports);
    VsockHeader header;
    ASSIGN_OR_RETURN(VsockConnection::Outcome outcome,
                     connection.NextPacket(chain, limiter, header));
    if (outcome == VsockConnection::Outcome::kLimited) return std::nullopt;
    ready_.pop_front();
    connection.queued = false;
    if (connection.finished()) {
      Remove(ports);
    } else {
      Refresh(connection);
    }
    if (outcome == VsockConnection::Outcome::kPacket) {
      return Emit(ports, header, chain);
    }
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<uint32_t>> VsockMuxer::Emit(VsockPorts ports,
                                                         VsockHeader header,
                                                         Chain& chain) {
  header.src_cid = kVsockHostCid;
  header.dst_cid = options_.guest_cid;
  header.src_port = ports.host;
  header.dst_port = ports.guest;
  RETURN_IF_ERROR(chain.Write(0, header.Serialize()));
  counters_.rx_packets.Add();
  counters_.rx_bytes.Add(header.len);
  if (header.op == VsockOp::kReset) counters_.resets_sent.Add();
  return static_cast<uint32_t>(VsockHeader::kSize + header.len);
}

}  // namespace cloister::devices::virtio

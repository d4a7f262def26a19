// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_connection.h"

#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint32_t kBoth = VsockHeader::kNoReceive | VsockHeader::kNoSend;
// One packet to the guest holds no more than this, however long its buffer.
constexpr uint64_t kMaxPayload = 64 * 1024;
constexpr std::chrono::seconds kShutdownLimit{2};

ssize_t SendTo(int fd, absl::Span<const struct iovec> from) {
  struct msghdr message = {};
  message.msg_iov = const_cast<struct iovec*>(from.data());
  message.msg_iovlen = std::min<size_t>(from.size(), IOV_MAX);
  return base::RetryOnEintr(
      [&] { return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
}

}  // namespace

VsockConnection::VsockConnection(VsockPorts ports, base::UniqueFd socket,
                                 Origin origin, VsockDrain drain,
                                 VsockCounters& counters)
    : ports_(ports),
      socket_(std::move(socket)),
      drain_(drain),
      counters_(counters),
      state_(origin == Origin::kHost ? State::kAsking : State::kOpen),
      send_request_(origin == Origin::kHost),
      send_response_(origin == Origin::kGuest) {}

std::optional<uint32_t> VsockConnection::events() const {
  if (state_ == State::kReset || host_gone_) return std::nullopt;
  uint32_t events = buffered() > 0 ? uint32_t{EPOLLOUT} : 0;
  if (state_ == State::kAsking) return events;  // a client that leaves hangs up
  if (host_ended_ || (guest_shutdown_ & VsockHeader::kNoReceive) != 0) {
    return events;  // only whether it hangs up
  }
  if (!readable_) return events | EPOLLIN;
  // It waits to be read: a hang-up would be reported again and again.
  return events == 0 ? std::nullopt : std::optional<uint32_t>(events);
}

void VsockConnection::OnReady(uint32_t events) {
  const bool hung_up = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if (events & EPOLLOUT) {
    Flush();
    if (drain_end_.has_value() && state_ == State::kOpen) RestartIdleTime();
  }
  if (state_ == State::kAsking) {
    if (hung_up) Abort();
    return;
  }
  if ((events & EPOLLIN) || hung_up) readable_ = true;
  if (hung_up && (host_ended_ || !MayRead())) {
    // All was read that is to be read, and nobody takes what the guest sends.
    host_gone_ = true;
    host_ended_ = true;
  }
}

void VsockConnection::Abort() {
  state_ = State::kReset;
  // The guest may take its time to hear of it: the host need not wait for that.
  ::shutdown(fd(), SHUT_RDWR);
  deadline_.reset();
  buffer_.clear();
  sent_from_buffer_ = 0;
}

bool VsockConnection::DispatchOpen(VsockOp op) const {
  return state_ == State::kOpen && !send_response_ &&
         (op == VsockOp::kReadWrite || op == VsockOp::kShutdown ||
          op == VsockOp::kCreditUpdate || op == VsockOp::kCreditRequest);
}

absl::Status VsockConnection::OnPacket(const VsockHeader& header,
                                       Chain& chain) {
  if (state_ == State::kReset) return absl::OkStatus();
  const bool expected =
      DispatchOpen(header.op) ||
      (state_ == State::kAsking && !send_request_ &&
       (header.op == VsockOp::kResponse || header.op == VsockOp::kShutdown));
  if (!expected || !credit_.UpdatePeer(header.buf_alloc, header.fwd_cnt)) {
    counters_.tx_out_of_turn.Add();
    Abort();
    return absl::OkStatus();
  }
  if (credit_.Available() > 0) credit_requested_ = false;
  switch (header.op) {
    case VsockOp::kResponse:
      OnAccepted();
      break;
    case VsockOp::kShutdown:
      OnShutdown(header.flags);
      break;
    case VsockOp::kReadWrite:
      return OnData(header.len, chain);
    case VsockOp::kCreditRequest:
      send_credit_update_ = true;
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

void VsockConnection::OnAccepted() {
  state_ = State::kOpen;
  deadline_.reset();
  const std::string line = absl::StrCat("OK ", ports_.host, "\n");
  const struct iovec iovec = {const_cast<char*>(line.data()), line.size()};
  // Nothing else was sent: so short a line has room.
  if (SendTo(fd(), {&iovec, 1}) != static_cast<ssize_t>(line.size())) {
    counters_.socket_errors.Add();
    Abort();
    return;
  }
  counters_.opened_by_host.Add();
}

void VsockConnection::OnShutdown(uint32_t flags) {
  guest_shutdown_ |= flags;
  if (state_ == State::kAsking) {
    Abort();
    return;
  }
  if (flags & VsockHeader::kNoReceive) ::shutdown(fd(), SHUT_RD);
  if (guest_shutdown_ == kBoth && buffered() > 0) StartDrain();
  AfterFlush();
}

bool VsockConnection::OnReset() {
  Flush();
  if (!draining() || buffered() == 0) return false;
  guest_shutdown_ = kBoth;
  ::shutdown(fd(), SHUT_RD);
  StartDrain();
  return true;
}

void VsockConnection::StartDrain() {
  if (drain_end_.has_value()) return;
  drain_end_ = std::chrono::steady_clock::now() + drain_.total;
  RestartIdleTime();
}

void VsockConnection::RestartIdleTime() {
  deadline_ =
      std::min(std::chrono::steady_clock::now() + drain_.idle, *drain_end_);
  drain_unread_ = Unread();
}

int VsockConnection::Unread() const {
  int bytes = 0;
  return ::ioctl(fd(), SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

// The socket asks for more only once the host has read most of what it holds:
// with a slow reader that takes longer than the reader does anything.
bool VsockConnection::PutOff(TimePoint now) {
  if (!drain_end_.has_value() || host_gone_ || now >= *drain_end_) return false;
  if (Unread() >= drain_unread_) return false;
  Flush();
  if (state_ == State::kOpen) RestartIdleTime();
  return true;
}

absl::Status VsockConnection::OnData(uint32_t size, Chain& chain) {
  if ((guest_shutdown_ & VsockHeader::kNoSend) != 0) {
    counters_.tx_out_of_turn.Add();
    Abort();
    return absl::OkStatus();
  }
  if (size > credit_.Room()) {
    counters_.tx_over_credit.Add();
    Abort();
    return absl::OkStatus();
  }
  if (size == 0) return absl::OkStatus();
  credit_.Received(size);
  counters_.tx_bytes.Add(size);
  uint32_t sent = 0;
  if (buffered() == 0) {
    ASSIGN_OR_RETURN(std::vector<struct iovec> iovecs,
                     chain.ReadableIovecs(VsockHeader::kSize, size));
    const ssize_t result = SendTo(fd(), iovecs);
    if (result < 0 && errno != EAGAIN) {
      Abort();  // nobody is there to read it
      return absl::OkStatus();
    }
    sent = result < 0 ? 0 : static_cast<uint32_t>(result);
    credit_.Consumed(sent);
  }
  if (sent < size) {
    // What was sent is kept for a while: cutting it off moves the rest.
    if (sent_from_buffer_ >= kBuffer / 2) {
      buffer_.erase(buffer_.begin(), buffer_.begin() + sent_from_buffer_);
      sent_from_buffer_ = 0;
    }
    const size_t before = buffer_.size();
    buffer_.resize(before + (size - sent));
    RETURN_IF_ERROR(chain.Read(VsockHeader::kSize + sent,
                               absl::MakeSpan(buffer_).subspan(before)));
  }
  if (credit_.ShouldAnnounce()) send_credit_update_ = true;
  return absl::OkStatus();
}

void VsockConnection::Flush() {
  while (buffered() > 0) {
    const struct iovec iovec = {buffer_.data() + sent_from_buffer_, buffered()};
    const ssize_t sent = SendTo(fd(), {&iovec, 1});
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) {
      Abort();
      return;
    }
    sent_from_buffer_ += sent;
    credit_.Consumed(static_cast<uint32_t>(sent));
  }
  buffer_.clear();
  buffer_.shrink_to_fit();
  sent_from_buffer_ = 0;
  if (credit_.ShouldAnnounce()) send_credit_update_ = true;
  AfterFlush();
}

void VsockConnection::AfterFlush() {
  if (buffered() > 0 || state_ != State::kOpen) return;
  if (guest_shutdown_ == kBoth) {
    Abort();  // which is how a clean shutdown ends
  } else if ((guest_shutdown_ & VsockHeader::kNoSend) != 0) {
    ::shutdown(fd(), SHUT_WR);
  }
}

bool VsockConnection::MayRead() const {
  return state_ == State::kOpen && !host_ended_ &&
         (guest_shutdown_ & VsockHeader::kNoReceive) == 0;
}

bool VsockConnection::HasPacket() const {
  if (state_ == State::kReset) return !finished_;
  if (send_request_ || send_response_ || send_credit_update_) return true;
  if (MayRead() && readable_) {
    return credit_.Available() > 0 || !credit_requested_;
  }
  const uint32_t wanted = (host_ended_ ? VsockHeader::kNoSend : 0) |
                          (host_gone_ ? VsockHeader::kNoReceive : 0);
  return state_ == State::kOpen && (wanted & ~shutdown_sent_) != 0;
}

absl::StatusOr<VsockConnection::Outcome> VsockConnection::NextPacket(
    Chain& chain, FlowLimiter& limiter, VsockHeader& header) {
  Outcome outcome = Outcome::kPacket;
  if (!NextControl(header)) {
    ASSIGN_OR_RETURN(outcome, ReadInto(chain, limiter, header));
  }
  if (outcome == Outcome::kPacket) {
    header.buf_alloc = credit_.buf_alloc();
    header.fwd_cnt = credit_.fwd_cnt();
    credit_.Announced();
    send_credit_update_ = false;
  }
  return outcome;
}

bool VsockConnection::NextControl(VsockHeader& header) {
  const uint32_t ended = (host_ended_ ? VsockHeader::kNoSend : 0) |
                         (host_gone_ ? VsockHeader::kNoReceive : 0);
  if (state_ == State::kReset) {
    header.op = VsockOp::kReset;
    finished_ = true;
  } else if (std::exchange(send_request_, false)) {
    header.op = VsockOp::kRequest;
  } else if (std::exchange(send_response_, false)) {
    header.op = VsockOp::kResponse;
  } else if (send_credit_update_) {
    header.op = VsockOp::kCreditUpdate;
  } else if ((ended & ~shutdown_sent_) != 0) {
    header.op = VsockOp::kShutdown;
    header.flags = shutdown_sent_ = ended;
    if (ended == kBoth) {
      deadline_ = std::chrono::steady_clock::now() + kShutdownLimit;
    }
  } else {
    return false;
  }
  return true;
}

std::optional<uint64_t> VsockConnection::AdmittedSize(uint64_t most,
                                                      FlowLimiter& limiter) {
  uint64_t bytes = most;
  const bool counted_by_byte = limiter.bandwidth_limited();
  if (counted_by_byte) {
    // How much is there: a look, so that the bytes may wait where they are.
    std::vector<uint8_t> scratch(most);
    const ssize_t waiting = base::RetryOnEintr([&] {
      return ::recv(fd(), scratch.data(), scratch.size(),
                    MSG_PEEK | MSG_DONTWAIT);
    });
    // At least one, so that the end of the stream is seen.
    bytes = waiting > 0 ? static_cast<uint64_t>(waiting) : 1;
  }
  const uint64_t counted = counted_by_byte ? bytes : 0;
  if (!limiter.Take(counted)) return std::nullopt;
  return bytes;
}

absl::StatusOr<VsockConnection::Outcome> VsockConnection::ReadInto(
    Chain& chain, FlowLimiter& limiter, VsockHeader& header) {
  if (!MayRead() || !readable_) return Outcome::kNothing;
  const uint64_t room = chain.writable_size() - VsockHeader::kSize;
  const uint64_t most =
      std::min<uint64_t>({room, credit_.Available(), kMaxPayload});
  if (most == 0) {
    // The guest took credit back that it had given, or never gave any.
    credit_requested_ = true;
    header.op = VsockOp::kCreditRequest;
    return Outcome::kPacket;
  }
  const std::optional<uint64_t> size = AdmittedSize(most, limiter);
  if (!size.has_value()) return Outcome::kLimited;
  ASSIGN_OR_RETURN(std::vector<struct iovec> iovecs,
                   chain.WritableIovecs(VsockHeader::kSize, *size));
  const int64_t got = base::RetryOnEintr([&] {
    return ::readv(fd(), iovecs.data(),
                   std::min<size_t>(iovecs.size(), IOV_MAX));
  });
  const int error = errno;
  if (got <= 0) {
    limiter.Return(limiter.bandwidth_limited() ? *size : 0);
  }
  return OnReadResult(got, error, header);
}

VsockConnection::Outcome VsockConnection::OnReadResult(int64_t got, int error,
                                                       VsockHeader& header) {
  if (got > 0) {
    header.op = VsockOp::kReadWrite;
    header.len = static_cast<uint32_t>(got);
    credit_.Sent(header.len);
    return Outcome::kPacket;
  }
  readable_ = false;
  if (got == 0) {
    host_ended_ = true;
  } else if (error != EAGAIN) {
    counters_.socket_errors.Add();
    Abort();
  }
  return Outcome::kNothing;
}

}  // namespace cloister::devices::virtio

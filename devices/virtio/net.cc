// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/net_header.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint16_t kQueueSize = 256;
constexpr uint16_t kControlQueueSize = 64;
constexpr uint16_t kStatusLinkUp = 1;
// The control queue's commands (virtio 1.3, section 5.1.6.5).
constexpr uint8_t kClassMq = 4;
constexpr uint8_t kMqPairsSet = 0;
constexpr uint8_t kAckOk = 0;
constexpr uint8_t kAckError = 1;

constexpr uint64_t Bits(std::initializer_list<int> features) {
  uint64_t bits = 0;
  for (int feature : features) bits |= uint64_t{1} << feature;
  return bits;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Net>> Net::Create(
    Options options, std::vector<std::unique_ptr<NetPort>> ports,
    std::unique_ptr<Worker> worker) {
  if (ports.empty() || ports.size() > kMaxPairs) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.name, ": ", ports.size(),
                     " pairs of queues; 1 to ", kMaxPairs));
  }
  std::unique_ptr<Net> net(new Net(std::move(options), std::move(worker)));
  Net* self = net.get();
  base::EventLoop& loop = net->runner_.loop();
  ASSIGN_OR_RETURN(net->rx_limiter_,
                   FlowLimiter::Create(loop, self->options_.rx_limit,
                                       [self] { self->ResumeReceivers(); }));
  ASSIGN_OR_RETURN(net->tx_limiter_,
                   FlowLimiter::Create(loop, self->options_.tx_limit,
                                       [self] { self->ResumeSenders(); }));
  ASSIGN_OR_RETURN(
      net->pairs_limiter_,
      FlowLimiter::Create(loop, {{}, self->options_.pairs_limit},
                          [self] { self->OnKick(self->ControlQueue()); }));
  ASSIGN_OR_RETURN(net->retry_, RateLimiterTimer::Create(loop, [self] {
                     for (size_t i = 0; i < self->active_pairs_; ++i) {
                       self->StartPair(i);
                     }
                   }));
  net->pairs_.reserve(ports.size());
  for (auto& port : ports) net->AddPair(std::move(port));
  if (net->pairs_.size() > 1) net->queue_sizes_.push_back(kControlQueueSize);
  return net;
}

void Net::AddPair(std::unique_ptr<NetPort> port) {
  Pair& pair = pairs_.emplace_back();  // stays where it is
  pair.port = std::move(port);
  pair.receiver = std::make_unique<NetReceiver>(
      runner_, *pair.port, counters_, [this, &pair] { OnReadFailed(pair); });
  pair.sender = std::make_unique<NetSender>(runner_, *pair.port, counters_,
                                            [this] { OnGone(); });
  queue_sizes_.push_back(kQueueSize);
  queue_sizes_.push_back(kQueueSize);
}

uint64_t Net::features() const {
  uint64_t features =
      Bits({kNetCsum, kNetGuestCsum, kNetMac, kNetGuestTso4, kNetGuestTso6,
            kNetGuestEcn, kNetGuestUfo, kNetHostTso4, kNetHostTso6, kNetHostEcn,
            kNetHostUfo, kNetMrgRxbuf, kNetStatus});
  if (pairs_.size() > 1) features |= Bits({kNetCtrlVq, kNetMq});
  return features;
}

void Net::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
  std::array<uint8_t, 10> config = {};
  std::copy_n(options_.mac.bytes().begin(), 6, config.begin());
  base::StoreLe<uint16_t>(&config[6], link_up() ? kStatusLinkUp : 0);
  base::StoreLe<uint16_t>(&config[8], static_cast<uint16_t>(pairs_.size()));
  for (size_t i = 0; i < data.size(); ++i) {
    const bool inside = offset < config.size() && i < config.size() - offset;
    data[i] = inside ? config[offset + i] : 0;
  }
}

size_t Net::UsablePairs() const {
  return runner_.Has(kNetMq) && runner_.Has(kNetCtrlVq) ? pairs_.size() : 1;
}

uint16_t Net::ControlQueue() const {
  return static_cast<uint16_t>(2 * UsablePairs());
}

absl::Status Net::OnStart() {
  active_pairs_ = 0;
  const NetOffloads offloads = NetOffloadsOf(runner_.features());
  for (Pair& pair : pairs_) {
    if (!link_up()) break;
    // A queue that is switched off cannot be configured.
    absl::Status status = pair.port->SetEnabled(true);
    if (status.ok()) status = pair.port->SetOffloads(offloads);
    if (status.ok()) continue;
    counters_.tap_errors.Add();
    if (!pair.port->IsGone()) return status;
    OnGone();
  }
  return SetActivePairs(1);
}

absl::Status Net::SetActivePairs(size_t count) {
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const bool active = i < count;
    if (!active) StopPair(pairs_[i]);
    if (link_up()) {
      const absl::Status status = pairs_[i].port->SetEnabled(active);
      if (!status.ok()) {
        counters_.tap_errors.Add();
        if (!pairs_[i].port->IsGone()) return status;
        OnGone();
      }
    }
  }
  const size_t before = active_pairs_;
  active_pairs_ = count;
  for (size_t i = before; i < count; ++i) StartPair(i);
  return absl::OkStatus();
}

void Net::StartPair(size_t index) {
  Pair& pair = pairs_[index];
  const uint16_t rx = static_cast<uint16_t>(2 * index);
  pair.sender->Start(rx + 1, tx_limiter_.get());
  if (link_up()) pair.receiver->Start(rx, rx_limiter_.get());
  runner_.Again(rx);
  runner_.Again(rx + 1);
}

void Net::StopPair(Pair& pair) {
  pair.receiver->Stop();
  pair.sender->Stop();
  Watch(pair);
}

void Net::OnStop() {
  for (Pair& pair : pairs_) StopPair(pair);
  active_pairs_ = 0;
  rx_limiter_->Cancel();
  tx_limiter_->Cancel();
  pairs_limiter_->Cancel();
  retry_->Disarm();
}

void Net::OnKick(uint16_t queue) {
  const size_t index = queue / 2;
  if (queue == ControlQueue() && UsablePairs() > 1) {
    runner_.Serve(queue, [this](Queue& control, Chain chain) {
      return Control(control, std::move(chain));
    });
  } else if (index < active_pairs_) {
    if (queue % 2 == 0) {
      RunReceiver(pairs_[index]);
    } else {
      RunSender(pairs_[index]);
    }
  }
}

void Net::RunReceiver(Pair& pair) {
  if (pair.receiver->wait() != NetReceiver::Wait::kLimiter) {
    pair.receiver->Run();
  }
  Watch(pair);
}

void Net::RunSender(Pair& pair) {
  pair.sender->Run();
  Watch(pair);
}

// Another pair is the first to be served each time: what one leaves of a limit
// may be too little for the next.
void Net::ResumeReceivers() {
  ++rx_turn_;
  for (size_t i = 0; i < active_pairs_; ++i) {
    Pair& pair = pairs_[(rx_turn_ + i) % active_pairs_];
    pair.receiver->Run();
    Watch(pair);
  }
}

void Net::ResumeSenders() {
  ++tx_turn_;
  for (size_t i = 0; i < active_pairs_; ++i) {
    RunSender(pairs_[(tx_turn_ + i) % active_pairs_]);
  }
}

void Net::OnReady(Pair& pair, uint32_t events) {
  if (!runner_.active()) return;
  if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pair.receiver->Run();
  if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) pair.sender->OnWritable();
  Watch(pair);
}

void Net::Watch(Pair& pair) {
  uint32_t wanted = 0;
  if (runner_.active()) {
    if (pair.receiver->wait() == NetReceiver::Wait::kNothing) wanted |= EPOLLIN;
    if (pair.sender->wants_room()) wanted |= EPOLLOUT;
  }
  if (wanted == pair.watched) return;
  const int fd = pair.port->fd();
  if (wanted == 0) {
    runner_.loop().Remove(fd);
  } else if (pair.watched != 0) {
    runner_.Check(runner_.loop().Modify(fd, wanted));
  } else if (!runner_.Check(runner_.loop().Add(
                 fd, wanted,
                 [this, &pair](uint32_t events) { OnReady(pair, events); }))) {
    return;
  }
  pair.watched = wanted;
}

void Net::OnReadFailed(Pair& pair) {
  if (pair.port->IsGone()) {
    OnGone();
  } else {
    retry_->Arm(options_.retry);
  }
}

void Net::OnGone() {
  if (!link_up_.exchange(false)) return;
  counters_.link_down.Add();
  for (Pair& pair : pairs_) {
    pair.receiver->Stop();
    pair.sender->SetGone();
    Watch(pair);
  }
  if (Interrupts* interrupts = runner_.interrupts()) {
    interrupts->SignalConfig();
  }
}

absl::StatusOr<DeviceRunner::Next> Net::Control(Queue& queue, Chain chain) {
  if (chain.readable_size() < 2 || chain.writable_size() < 1) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a control command without its class or its answer");
  }
  ASSIGN_OR_RETURN(std::optional<uint16_t> pairs, WantedPairs(chain));
  if (pairs.has_value() && *pairs != active_pairs_) {
    if (!pairs_limiter_->Take(0)) {
      queue.Unpop(std::move(chain));
      return DeviceRunner::Next::kStop;
    }
    RETURN_IF_ERROR(SetActivePairs(*pairs));
  }
  counters_.control_commands.Add();
  if (!pairs.has_value()) counters_.control_refused.Add();
  const uint8_t ack = pairs.has_value() ? kAckOk : kAckError;
  RETURN_IF_ERROR(chain.Write(0, {&ack, 1}));
  RETURN_IF_ERROR(queue.Push(std::move(chain), 1));
  return DeviceRunner::Next::kMore;
}

absl::StatusOr<std::optional<uint16_t>> Net::WantedPairs(const Chain& chain) {
  std::array<uint8_t, 4> command;
  if (chain.readable_size() != command.size()) return std::nullopt;
  RETURN_IF_ERROR(chain.Read(0, absl::MakeSpan(command)));
  if (command[0] != kClassMq || command[1] != kMqPairsSet) return std::nullopt;
  const uint16_t count = base::LoadLe<uint16_t>(&command[2]);
  if (count < 1 || count > UsablePairs()) return std::nullopt;
  return count;
}

}  // namespace cloister::devices::virtio

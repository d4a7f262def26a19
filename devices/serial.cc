// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/serial.h"

#include <algorithm>
#include <utility>

namespace cloister::devices {
namespace {

// Registers, by port offset (PC16550D, table II).
constexpr uint8_t kData = 0;  // RBR, THR; DLL with DLAB.
constexpr uint8_t kIer = 1;   // DLM with DLAB.
constexpr uint8_t kIirFcr = 2;
constexpr uint8_t kLcr = 3;
constexpr uint8_t kMcr = 4;
constexpr uint8_t kLsr = 5;
constexpr uint8_t kMsr = 6;

constexpr uint8_t kIerReceived = 0x01;
constexpr uint8_t kIerThrEmpty = 0x02;
constexpr uint8_t kIerLineStatus = 0x04;
constexpr uint8_t kIerModemStatus = 0x08;
constexpr uint8_t kIerMask = 0x0f;

constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirModemStatus = 0x00;
constexpr uint8_t kIirThrEmpty = 0x02;
constexpr uint8_t kIirReceived = 0x04;
constexpr uint8_t kIirLineStatus = 0x06;
constexpr uint8_t kIirTimeout = 0x0c;
constexpr uint8_t kIirFifosEnabled = 0xc0;

constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kFcrClearReceiver = 0x02;
constexpr uint8_t kFcrClearTransmitter = 0x04;
constexpr uint8_t kFcrStored = 0xc9;  // Enable, DMA mode, trigger level.

constexpr uint8_t kLcrDivisorLatch = 0x80;

constexpr uint8_t kMcrDtr = 0x01;
constexpr uint8_t kMcrRts = 0x02;
constexpr uint8_t kMcrOut1 = 0x04;
constexpr uint8_t kMcrOut2 = 0x08;
constexpr uint8_t kMcrLoopback = 0x10;
constexpr uint8_t kMcrMask = 0x1f;

constexpr uint8_t kLsrDataReady = 0x01;
constexpr uint8_t kLsrOverrun = 0x02;
constexpr uint8_t kLsrBreak = 0x10;
constexpr uint8_t kLsrThrEmpty = 0x20;
constexpr uint8_t kLsrTransmitterEmpty = 0x40;
constexpr uint8_t kLsrFifoError = 0x80;

constexpr uint8_t kMsrDeltas = 0x0f;
constexpr uint8_t kMsrTrailingRing = 0x04;
constexpr uint8_t kMsrClearToSend = 0x10;
constexpr uint8_t kMsrDataSetReady = 0x20;
constexpr uint8_t kMsrRing = 0x40;
constexpr uint8_t kMsrCarrier = 0x80;
constexpr uint8_t kMsrConnected =
    kMsrClearToSend | kMsrDataSetReady | kMsrCarrier;

constexpr std::array<size_t, 4> kTriggerLevels = {1, 4, 8, 14};

// The modem inputs: the line's, or in loopback mode the outputs.
uint8_t ModemInputs(uint8_t mcr) {
  if ((mcr & kMcrLoopback) == 0) return kMsrConnected;
  uint8_t inputs = 0;
  if (mcr & kMcrRts) inputs |= kMsrClearToSend;
  if (mcr & kMcrDtr) inputs |= kMsrDataSetReady;
  if (mcr & kMcrOut1) inputs |= kMsrRing;
  if (mcr & kMcrOut2) inputs |= kMsrCarrier;
  return inputs;
}

}  // namespace

Serial::Serial(Options options, SerialSink& sink, IrqLine& irq)
    : options_(std::move(options)),
      sink_(sink),
      irq_(irq),
      msr_(kMsrConnected) {}

void Serial::Read(uint64_t offset, absl::Span<uint8_t> data) {
  bool room;
  {
    base::MutexLock lock(&mutex_);
    for (uint8_t& byte : data) byte = ReadRegister(offset++ % kPortCount);
    UpdateIrq();
    room = TakeRoomNotice();
  }
  if (room && options_.on_input_room) options_.on_input_room();
}

void Serial::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  bool room;
  {
    base::MutexLock lock(&mutex_);
    for (uint8_t byte : data) WriteRegister(offset++ % kPortCount, byte);
    UpdateIrq();
    room = TakeRoomNotice();
  }
  if (room && options_.on_input_room) options_.on_input_room();
}

uint8_t Serial::ReadRegister(uint8_t index) {
  const bool divisor = (lcr_ & kLcrDivisorLatch) != 0;
  switch (index) {
    case kData:
      return divisor ? divisor_[0] : ReadReceiver();
    case kIer:
      return divisor ? divisor_[1] : ier_;
    case kIirFcr:
      return ReadInterruptId();
    case kLcr:
      return lcr_;
    case kMcr:
      return mcr_;
    case kLsr:
      return ReadLineStatus();
    case kMsr:
      return ReadModemStatus();
    default:
      return scr_;
  }
}

void Serial::WriteRegister(uint8_t index, uint8_t value) {
  const bool divisor = (lcr_ & kLcrDivisorLatch) != 0;
  switch (index) {
    case kData:
      if (divisor) {
        divisor_[0] = value;
      } else {
        WriteTransmitter(value);
      }
      break;
    case kIer:
      if (divisor) {
        divisor_[1] = value;
      } else {
        WriteInterruptEnable(value);
      }
      break;
    case kIirFcr:
      WriteFifoControl(value);
      break;
    case kLcr:
      lcr_ = value;
      break;
    case kMcr:
      WriteModemControl(value);
      break;
    case kLsr:  // For factory tests only; ignored, as by real drivers.
    case kMsr:
      break;
    default:
      scr_ = value;
      break;
  }
}

uint8_t Serial::ReadReceiver() {
  if (rx_count_ == 0) return 0;
  const uint8_t byte = rx_[rx_head_].byte;
  rx_head_ = (rx_head_ + 1) % kFifoSize;
  --rx_count_;
  if (rx_count_ != 0) lsr_errors_ |= rx_[rx_head_].errors;
  return byte;
}

// Reading IIR takes a THR-empty interrupt back if that is what it shows.
uint8_t Serial::ReadInterruptId() {
  const uint8_t pending = PendingInterrupt();
  if (pending == kIirThrEmpty) thre_pending_ = false;
  return pending | ((fcr_ & kFcrEnable) ? kIirFifosEnabled : 0);
}

uint8_t Serial::ReadLineStatus() {
  uint8_t status = lsr_errors_;
  if (rx_count_ != 0) {
    status |= kLsrDataReady;
    rx_[rx_head_].errors = 0;
  }
  if (tx_count_ == 0) status |= kLsrThrEmpty | kLsrTransmitterEmpty;
  if (fcr_ & kFcrEnable) {
    for (size_t i = 0; i < rx_count_; ++i) {
      if (rx_[(rx_head_ + i) % kFifoSize].errors) status |= kLsrFifoError;
    }
    if (lsr_errors_ & kLsrBreak) status |= kLsrFifoError;
  }
  lsr_errors_ = 0;
  return status;
}

uint8_t Serial::ReadModemStatus() {
  const uint8_t status = msr_;
  msr_ &= ~kMsrDeltas;
  return status;
}

void Serial::WriteTransmitter(uint8_t value) {
  if (loopback()) {
    Receive({value, 0});
    thre_pending_ = true;
    return;
  }
  if (tx_count_ >= TxCapacity()) {
    ++counters_.tx_dropped;
    return;
  }
  tx_[tx_count_++] = value;
  thre_pending_ = false;
  Transmit();
}

void Serial::WriteInterruptEnable(uint8_t value) {
  const uint8_t enabled = value & ~ier_;
  ier_ = value & kIerMask;
  // Enabling the interrupt with THR empty raises it, again each time.
  if ((enabled & kIerThrEmpty) && tx_count_ == 0) thre_pending_ = true;
}

void Serial::WriteFifoControl(uint8_t value) {
  const bool toggled = ((value ^ fcr_) & kFcrEnable) != 0;
  if (toggled || (value & kFcrClearReceiver)) ClearReceiver();
  if ((toggled || (value & kFcrClearTransmitter)) && tx_count_ != 0) {
    counters_.tx_dropped += tx_count_;
    tx_count_ = 0;
    thre_pending_ = true;
  }
  // The other bits can be programmed only together with the enable bit.
  fcr_ = (value & kFcrEnable) ? value & kFcrStored : 0;
}

void Serial::WriteModemControl(uint8_t value) {
  mcr_ = value & kMcrMask;
  const uint8_t inputs = ModemInputs(mcr_);
  const uint8_t changed = (inputs ^ msr_) & 0xf0;
  uint8_t deltas = changed >> 4;
  // The ring indicator reports its end alone.
  if (inputs & kMsrRing) deltas &= ~kMsrTrailingRing;
  msr_ = inputs | (msr_ & kMsrDeltas) | deltas;
  Transmit();  // What waited while loopback was on.
}

size_t Serial::RxCapacity() const {
  return (fcr_ & kFcrEnable) ? kFifoSize : 1;
}
size_t Serial::TxCapacity() const {
  return (fcr_ & kFcrEnable) ? kFifoSize : 1;
}
bool Serial::loopback() const { return (mcr_ & kMcrLoopback) != 0; }

bool Serial::Receive(Received received) {
  if (rx_count_ >= RxCapacity()) {
    lsr_errors_ |= kLsrOverrun;
    ++counters_.overruns;
    return false;
  }
  if (rx_count_ == 0) lsr_errors_ |= received.errors;
  rx_[(rx_head_ + rx_count_) % kFifoSize] = received;
  ++rx_count_;
  ++counters_.rx_bytes;
  return true;
}

void Serial::ClearReceiver() {
  rx_head_ = 0;
  rx_count_ = 0;
  lsr_errors_ = 0;
}

void Serial::Transmit() {
  if (tx_count_ == 0 || loopback()) return;
  size_t sent = sink_.Write(absl::MakeConstSpan(tx_.data(), tx_count_));
  sent = std::min(sent, tx_count_);
  std::copy(tx_.begin() + sent, tx_.begin() + tx_count_, tx_.begin());
  tx_count_ -= sent;
  counters_.tx_bytes += sent;
  if (tx_count_ == 0) thre_pending_ = true;
}

// The highest-priority interrupt, as IIR shows it (PC16550D, table IV).
uint8_t Serial::PendingInterrupt() const {
  if ((ier_ & kIerLineStatus) && lsr_errors_ != 0) return kIirLineStatus;
  if ((ier_ & kIerReceived) && rx_count_ != 0) {
    const bool fifo = (fcr_ & kFcrEnable) != 0;
    if (!fifo || rx_count_ >= kTriggerLevels[fcr_ >> 6]) return kIirReceived;
    return kIirTimeout;
  }
  if ((ier_ & kIerThrEmpty) && thre_pending_) return kIirThrEmpty;
  if ((ier_ & kIerModemStatus) && (msr_ & kMsrDeltas)) return kIirModemStatus;
  return kIirNone;
}

void Serial::UpdateIrq() {
  const bool gate = (mcr_ & kMcrOut2) != 0 && !loopback();
  const bool level = gate && PendingInterrupt() != kIirNone;
  if (level == irq_level_) return;
  irq_level_ = level;
  irq_.SetLevel(level);
}

// Waits until half of the FIFO is free, so that input moves in batches.
bool Serial::TakeRoomNotice() {
  if (!room_wanted_ || loopback() || rx_count_ > RxCapacity() / 2) return false;
  room_wanted_ = false;
  return true;
}

size_t Serial::Enqueue(absl::Span<const uint8_t> bytes) {
  base::MutexLock lock(&mutex_);
  size_t taken = 0;
  while (!loopback() && taken < bytes.size() && rx_count_ < RxCapacity()) {
    Receive({bytes[taken++], 0});
  }
  if (taken < bytes.size()) room_wanted_ = true;
  UpdateIrq();
  return taken;
}

void Serial::SendBreak() {
  base::MutexLock lock(&mutex_);
  if (!loopback()) Receive({0, kLsrBreak});
  UpdateIrq();
}

void Serial::OnSinkWritable() {
  base::MutexLock lock(&mutex_);
  Transmit();
  UpdateIrq();
}

Serial::Counters Serial::counters() const {
  return {counters_.tx_bytes.load(), counters_.rx_bytes.load(),
          counters_.overruns.load(), counters_.tx_dropped.load()};
}

}  // namespace cloister::devices

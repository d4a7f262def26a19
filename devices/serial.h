// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_SERIAL_H_
#define CLOISTER_DEVICES_SERIAL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/irq_line.h"

namespace cloister::devices {

// Where a serial port's output goes.
class SerialSink {
 public:
  virtual ~SerialSink() = default;

  // Takes a prefix of `bytes` and returns its length, 0 if there is no room;
  // then somebody calls Serial::OnSinkWritable once there is. Called on a
  // vCPU's thread with the port's lock held: must not block and must not call
  // back into the port.
  virtual size_t Write(absl::Span<const uint8_t> bytes) = 0;
};

// A 16550A UART (National Semiconductor PC16550D): eight ports, one interrupt.
//
// Time is not modelled: a byte is sent as soon as the sink takes it, the line
// is always connected, and the character timeout fires at once. Back-pressure:
// what the sink refuses waits in the 16-byte transmit FIFO with THRE clear, as
// on slow hardware, so a driver that obeys THRE loses nothing and a vCPU never
// blocks in the monitor. A guest that writes to a full FIFO loses the byte,
// which is counted as dropped.
//
// As on a PC the interrupt reaches the line only while MCR.OUT2 is set.
// Thread-safe.
class Serial : public BusDevice {
 public:
  static constexpr uint64_t kPortCount = 8;
  static constexpr size_t kFifoSize = 16;

  struct Options {
    std::string name = "serial0";
    // Called without a lock on the thread that made room (half of the FIFO)
    // after an Enqueue that could not take everything. May call Enqueue.
    std::function<void()> on_input_room;
  };
  struct Counters {
    uint64_t tx_bytes = 0;    // Taken by the sink.
    uint64_t rx_bytes = 0;    // Put into the receive FIFO.
    uint64_t overruns = 0;    // Lost for want of room in the receive FIFO.
    uint64_t tx_dropped = 0;  // Written by the guest with THR full.
  };

  // `sink` and `irq` must outlive the port.
  Serial(Options options, SerialSink& sink, IrqLine& irq);

  absl::string_view name() const override { return options_.name; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

  // Receives a prefix of `bytes`; returns how many fit into the FIFO (one byte
  // if the guest has not enabled it, none in loopback mode). If that is not all
  // of them, Options::on_input_room follows.
  size_t Enqueue(absl::Span<const uint8_t> bytes);

  // Receives a break condition (Linux: SysRq). An overrun if the FIFO is full.
  void SendBreak();

  // Tries again to send what the sink had refused.
  void OnSinkWritable();

  // Never waits, whatever the sink does.
  Counters counters() const;

 private:
  struct Received {
    uint8_t byte = 0;
    uint8_t errors = 0;  // LSR bits that belong to this byte.
  };

  uint8_t ReadRegister(uint8_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint8_t index, uint8_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadReceiver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadInterruptId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadLineStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadModemStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteTransmitter(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteInterruptEnable(uint8_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteFifoControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteModemControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  size_t RxCapacity() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t TxCapacity() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool loopback() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Receive(Received received) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearReceiver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Transmit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t PendingInterrupt() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateIrq() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True, once, if an Enqueue was cut short and half of the FIFO is free.
  bool TakeRoomNotice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  SerialSink& sink_;
  IrqLine& irq_;

  mutable base::Mutex mutex_;
  uint8_t ier_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t fcr_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t lcr_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t mcr_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t scr_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t msr_ ABSL_GUARDED_BY(mutex_);
  uint8_t lsr_errors_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint8_t, 2> divisor_ ABSL_GUARDED_BY(mutex_) = {12, 0};
  std::array<Received, kFifoSize> rx_ ABSL_GUARDED_BY(mutex_);
  size_t rx_head_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t rx_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint8_t, kFifoSize> tx_ ABSL_GUARDED_BY(mutex_) = {};
  size_t tx_count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool thre_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool room_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool irq_level_ ABSL_GUARDED_BY(mutex_) = false;
  // Changed with the lock held, read without it: a sink may take its time.
  struct {
    std::atomic<uint64_t> tx_bytes{0};
    std::atomic<uint64_t> rx_bytes{0};
    std::atomic<uint64_t> overruns{0};
    std::atomic<uint64_t> tx_dropped{0};
  } counters_;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_SERIAL_H_

// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/serial.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "cloister/devices/fake_irq_line.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

// Takes at most `room` bytes.
class FakeSink : public SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    const size_t taken = std::min(bytes.size(), room_);
    text_.append(bytes.begin(), bytes.begin() + taken);
    room_ -= taken;
    return taken;
  }
  void set_room(size_t room) {
    base::MutexLock lock(&mutex_);
    room_ = room;
  }
  std::string text() {
    base::MutexLock lock(&mutex_);
    return text_;
  }
  size_t size() {
    base::MutexLock lock(&mutex_);
    return text_.size();
  }

 private:
  base::Mutex mutex_;
  size_t room_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

enum Register : uint64_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScr };
constexpr Register kFcr = kIir;
constexpr uint8_t kFifoOn = 0x01;
constexpr uint8_t kTrigger8 = 0x80;
constexpr uint8_t kOut2 = 0x08;
constexpr uint8_t kLoop = 0x10;
constexpr uint8_t kNoInterrupt = 0x01;

class SerialTest : public ::testing::Test {
 protected:
  SerialTest() : serial_({"ttyS0", [this] { ++room_notices_; }}, sink_, irq_) {}

  uint8_t In(uint64_t offset) {
    uint8_t value = 0;
    serial_.Read(offset, absl::MakeSpan(&value, 1));
    return value;
  }
  void Out(uint64_t offset, uint8_t value) {
    serial_.Write(offset, absl::MakeConstSpan(&value, 1));
  }
  size_t Type(absl::string_view text) {
    return serial_.Enqueue(absl::MakeConstSpan(
        reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }

  FakeSink sink_;
  FakeIrqLine irq_;
  int room_notices_ = 0;
  Serial serial_;
};

TEST_F(SerialTest, TransmitsAtOnceAndStaysReady) {
  for (char c : std::string("hello")) {
    EXPECT_EQ(In(kLsr), 0x60);
    Out(kData, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(sink_.text(), "hello");
  EXPECT_EQ(serial_.counters().tx_bytes, 5u);
  EXPECT_EQ(irq_.edges(), 0);
}

TEST_F(SerialTest, DivisorLatchHidesDataAndInterruptEnable) {
  Out(kIer, 0x05);
  Out(kLcr, 0x80);
  Out(kData, 0x34);
  Out(kIer, 0x12);
  EXPECT_EQ(In(kData), 0x34);
  EXPECT_EQ(In(kIer), 0x12);
  Out(kLcr, 0x03);
  EXPECT_EQ(In(kLcr), 0x03);
  EXPECT_EQ(In(kIer), 0x05);
  EXPECT_EQ(sink_.text(), "");
}

TEST_F(SerialTest, ScratchAndReservedBits) {
  Out(kScr, 0xa5);
  EXPECT_EQ(In(kScr), 0xa5);
  Out(kIer, 0xff);
  EXPECT_EQ(In(kIer), 0x0f);
  Out(kMcr, 0xff);
  EXPECT_EQ(In(kMcr), 0x1f);
  Out(kMcr, 0);
  Out(kLsr, 0xff);
  EXPECT_EQ(In(kLsr), 0x60);
}

// The probe of Linux's 8250 driver (autoconfig and autoconfig_16550a): what it
// writes, and what it must read to settle on a plain 16550A with 16-byte FIFOs.
TEST_F(SerialTest, LinuxFindsA16550A) {
  const uint8_t ier = In(kIer);
  Out(kIer, 0);
  EXPECT_EQ(In(kIer) & 0x0f, 0);
  Out(kIer, 0x0f);
  EXPECT_EQ(In(kIer) & 0x0f, 0x0f);
  Out(kIer, ier);

  const uint8_t mcr = In(kMcr), lcr = In(kLcr);
  Out(kMcr, kLoop | 0x0a);
  EXPECT_EQ(In(kMsr) & 0xf0, 0x90);
  Out(kMcr, mcr);

  Out(kLcr, 0xbf);
  Out(kFcr, 0);
  Out(kLcr, 0);
  Out(kFcr, kFifoOn);
  EXPECT_EQ(In(kIir) >> 6, 3);

  Out(kLcr, 0x80);
  EXPECT_NE(In(kIir), 0) << "would be an ST16C650";
  Out(kLcr, 0xbf);
  EXPECT_NE(In(kIir), 0) << "would be an XR16C850";

  Out(kLcr, 0);
  const uint8_t status1 = In(kMcr);
  Out(kLcr, 0xe0);
  EXPECT_FALSE((In(kIir) ^ status1) & kLoop);
  Out(kLcr, 0);
  Out(kMcr, status1 ^ kLoop);
  Out(kLcr, 0xe0);
  EXPECT_FALSE((In(kIir) ^ status1) & kLoop) << "would be an NS16550A";
  Out(kLcr, 0);
  Out(kMcr, status1);

  Out(kFcr, kFifoOn | 0x20);
  EXPECT_EQ(In(kIir) >> 5, 6);
  Out(kFcr, kFifoOn);
  Out(kLcr, 0x80);
  Out(kFcr, kFifoOn | 0x20);
  EXPECT_EQ(In(kIir) >> 5, 6) << "would be a TI16750";
  Out(kFcr, kFifoOn);
  Out(kLcr, 0);

  Out(kIer, 0x40);
  EXPECT_FALSE(In(kIer) & 0x40) << "would be an XScale";
  Out(kIer, 0);

  // size_fifo: fill the FIFO through loopback and count.
  Out(kFcr, 0x07);
  Out(kMcr, kLoop | 0x02);
  for (int i = 0; i < 256; ++i) Out(kData, static_cast<uint8_t>(i));
  int count = 0;
  while ((In(kLsr) & 0x01) && count < 256) EXPECT_EQ(In(kData), count++);
  EXPECT_EQ(count, 16);
  EXPECT_EQ(serial_.counters().overruns, 240u);
  Out(kMcr, mcr);
  Out(kLcr, lcr);
  EXPECT_EQ(sink_.text(), "");
  EXPECT_EQ(irq_.edges(), 0);
}

// serial8250_do_startup's tests for THRE bugs: each enabling of the interrupt
// with an empty transmitter must show in IIR, and reading IIR takes it back.
TEST_F(SerialTest, LinuxFindsNoThreBug) {
  Out(kFcr, kFifoOn);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(In(kLsr) & 0x60, 0x60);
    Out(kIer, 0x02);
    EXPECT_EQ(In(kIir), 0xc2);
    EXPECT_EQ(In(kIir), 0xc1);
    Out(kIer, 0);
  }
}

TEST_F(SerialTest, ThreInterruptPerBatchThroughOut2) {
  Out(kFcr, kFifoOn);
  Out(kIer, 0x02);
  EXPECT_FALSE(irq_.level()) << "OUT2 gates the interrupt";
  Out(kMcr, kOut2);
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(In(kIir), 0xc2);
  EXPECT_FALSE(irq_.level());
  for (int i = 0; i < 16; ++i) Out(kData, 'x');
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(irq_.edges(), 2) << "one edge for the whole batch";
  Out(kIer, 0);
  EXPECT_FALSE(irq_.level());
  EXPECT_EQ(irq_.redundant(), 0);
}

TEST_F(SerialTest, ReceiveInterruptFollowsTriggerAndTimeout) {
  Out(kFcr, kFifoOn | kTrigger8);
  Out(kMcr, kOut2);
  Out(kIer, 0x01);
  EXPECT_EQ(Type("abc"), 3u);
  EXPECT_TRUE(irq_.level());
  EXPECT_EQ(In(kIir), 0xcc) << "below the trigger: character timeout";
  EXPECT_TRUE(irq_.level()) << "reading IIR does not take it back";
  EXPECT_EQ(Type("defgh"), 5u);
  EXPECT_EQ(In(kIir), 0xc4);
  for (char c : std::string("abcdefgh")) {
    EXPECT_TRUE(In(kLsr) & 0x01);
    EXPECT_EQ(In(kData), static_cast<uint8_t>(c));
  }
  EXPECT_FALSE(irq_.level());
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kIir), 0xc1);
  EXPECT_EQ(In(kData), 0) << "empty";
  EXPECT_EQ(Type("z"), 1u);
  EXPECT_EQ(irq_.edges(), 2);
}

TEST_F(SerialTest, WithoutFifoOneByteFitsAndIsDataReady) {
  Out(kIer, 0x01);
  EXPECT_EQ(Type("ab"), 1u);
  EXPECT_EQ(In(kIir), 0x04);
  EXPECT_EQ(In(kData), 'a');
  EXPECT_EQ(room_notices_, 1);
}

TEST_F(SerialTest, RoomIsAnnouncedOncePerRefusal) {
  Out(kFcr, kFifoOn);
  EXPECT_EQ(Type(std::string(20, 'x')), 16u);
  for (int i = 0; i < 7; ++i) In(kData);
  EXPECT_EQ(room_notices_, 0);
  In(kData);
  EXPECT_EQ(room_notices_, 1);
  for (int i = 0; i < 8; ++i) In(kData);
  EXPECT_EQ(room_notices_, 1);
  EXPECT_EQ(Type(std::string(16, 'y')), 16u);
  Out(kFcr, kFifoOn | 0x02);
  EXPECT_EQ(room_notices_, 1) << "nothing was refused";
  EXPECT_EQ(Type(std::string(17, 'y')), 16u);
  Out(kFcr, kFifoOn | 0x02);
  EXPECT_EQ(room_notices_, 2);
}

TEST_F(SerialTest, InterruptPriorities) {
  Out(kFcr, kFifoOn);
  Out(kIer, 0x0f);
  Out(kMcr, kLoop);
  Out(kMcr, kLoop | 0x01);                       // DTR: delta DSR.
  for (int i = 0; i < 17; ++i) Out(kData, 'x');  // Overrun.
  EXPECT_EQ(In(kIir), 0xc6);
  EXPECT_EQ(In(kLsr) & 0x02, 0x02);
  EXPECT_EQ(In(kIir), 0xc4);
  for (int i = 0; i < 16; ++i) In(kData);
  EXPECT_EQ(In(kIir), 0xc2);
  EXPECT_EQ(In(kIir), 0xc0);
  In(kMsr);
  EXPECT_EQ(In(kIir), 0xc1);
  EXPECT_EQ(irq_.edges(), 0) << "loopback disconnects OUT2";
}

TEST_F(SerialTest, ModemStatusDeltas) {
  EXPECT_EQ(In(kMsr), 0xb0);
  Out(kMcr, kLoop);
  EXPECT_EQ(In(kMsr), 0x0b);
  EXPECT_EQ(In(kMsr), 0x00);
  Out(kMcr, kLoop | 0x04);  // OUT1: ring begins, which is no delta.
  EXPECT_EQ(In(kMsr), 0x40);
  Out(kMcr, kLoop);
  EXPECT_EQ(In(kMsr), 0x04);
  Out(kMcr, kLoop | 0x0f);
  EXPECT_EQ(In(kMsr), 0xfb);
}

TEST_F(SerialTest, SinkBackPressureShowsAsThreNotEmpty) {
  Out(kFcr, kFifoOn);
  Out(kMcr, kOut2);
  sink_.set_room(3);
  for (char c : std::string("abcdef")) Out(kData, static_cast<uint8_t>(c));
  EXPECT_EQ(sink_.text(), "abc");
  EXPECT_EQ(In(kLsr) & 0x60, 0);
  Out(kIer, 0x02);
  EXPECT_FALSE(irq_.level());
  sink_.set_room(2);
  serial_.OnSinkWritable();
  EXPECT_EQ(In(kLsr) & 0x60, 0);
  EXPECT_FALSE(irq_.level());
  sink_.set_room(SIZE_MAX);
  serial_.OnSinkWritable();
  EXPECT_EQ(sink_.text(), "abcdef");
  EXPECT_EQ(In(kLsr) & 0x60, 0x60);
  EXPECT_TRUE(irq_.level());
}

TEST_F(SerialTest, WritesToAFullFifoAreDroppedAndCounted) {
  Out(kFcr, kFifoOn);
  sink_.set_room(0);
  for (int i = 0; i < 20; ++i) Out(kData, static_cast<uint8_t>('a' + i));
  EXPECT_EQ(serial_.counters().tx_dropped, 4u);
  sink_.set_room(SIZE_MAX);
  serial_.OnSinkWritable();
  EXPECT_EQ(sink_.text(), "abcdefghijklmnop");
  sink_.set_room(0);
  Out(kData, 'x');
  Out(kFcr, kFifoOn | 0x04);
  EXPECT_EQ(In(kLsr) & 0x60, 0x60) << "transmitter reset";
  EXPECT_EQ(serial_.counters().tx_dropped, 5u);
}

TEST_F(SerialTest, BreakIsALineStatusWithANulByte) {
  Out(kFcr, kFifoOn);
  Out(kMcr, kOut2);
  Out(kIer, 0x05);
  EXPECT_EQ(Type("a"), 1u);
  serial_.SendBreak();
  EXPECT_EQ(Type("b"), 1u);
  EXPECT_EQ(In(kLsr), 0xe1) << "an error further down the FIFO";
  EXPECT_EQ(In(kData), 'a');
  EXPECT_EQ(In(kIir), 0xc6);
  EXPECT_EQ(In(kLsr), 0xf1) << "the break is next";
  EXPECT_EQ(In(kLsr), 0x61) << "shown once";
  EXPECT_EQ(In(kData), 0);
  EXPECT_EQ(In(kData), 'b');
  EXPECT_EQ(In(kLsr), 0x60);
}

TEST_F(SerialTest, ToggledFifoForgetsItsBytes) {
  EXPECT_EQ(Type("a"), 1u);
  Out(kFcr, kFifoOn);
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(Type("abc"), 3u);
  Out(kFcr, kFifoOn);
  EXPECT_EQ(In(kLsr) & 1, 1) << "not toggled";
  Out(kFcr, 0);
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kIir), kNoInterrupt);
}

TEST_F(SerialTest, LoopbackRefusesOutsideInput) {
  Out(kFcr, kFifoOn);
  Out(kMcr, kLoop);
  EXPECT_EQ(Type("a"), 0u);
  serial_.SendBreak();
  EXPECT_EQ(In(kLsr), 0x60);
  Out(kMcr, 0);
  EXPECT_EQ(room_notices_, 1);
}

TEST_F(SerialTest, WideAccessesAreConsecutiveRegisters) {
  const std::array<uint8_t, 4> write = {'w', 0x01, kFifoOn, 0x03};
  serial_.Write(0, write);
  EXPECT_EQ(sink_.text(), "w");
  EXPECT_EQ(In(kLcr), 0x03);
  std::array<uint8_t, 8> read = {};
  serial_.Read(0, absl::MakeSpan(read));
  EXPECT_EQ(read,
            (std::array<uint8_t, 8>{0, 0x01, 0xc1, 0x03, 0, 0x60, 0xb0, 0}));
}

// A driver that obeys interrupts alone, as an edge-triggered input would see
// them, against a host that types and a sink that comes and goes: nothing is
// lost or reordered in either direction.
TEST_F(SerialTest, EchoLosesNothingUnderConcurrency) {
  Out(kFcr, kFifoOn | kTrigger8);
  Out(kMcr, kOut2);
  Out(kIer, 0x07);
  constexpr size_t kBytes = 3000;
  std::string sent(kBytes, '\0');
  for (size_t i = 0; i < kBytes; ++i) sent[i] = static_cast<char>(i % 251);

  std::atomic<bool> done{false};
  std::thread typist([&] {
    size_t position = 0;
    while (position < kBytes) {
      position += Type(absl::string_view(sent).substr(position, 7));
      std::this_thread::yield();
    }
  });
  std::thread sink_owner([&] {
    for (size_t room = 0; !done.load(); ++room) {
      sink_.set_room(room % 5);
      serial_.OnSinkWritable();
      std::this_thread::yield();
    }
  });

  std::string pending;
  while (sink_.size() < kBytes) {
    if (!irq_.level()) {
      std::this_thread::yield();
      continue;
    }
    for (uint8_t iir = In(kIir); !(iir & kNoInterrupt); iir = In(kIir)) {
      while (In(kLsr) & 0x01) pending += static_cast<char>(In(kData));
      if (In(kLsr) & 0x20) {
        const size_t count = std::min<size_t>(pending.size(), 16);
        for (size_t i = 0; i < count; ++i) {
          Out(kData, static_cast<uint8_t>(pending[i]));
        }
        pending.erase(0, count);
      }
      // As Linux does: the interrupt is on while there is something to send.
      Out(kIer, pending.empty() ? 0x05 : 0x07);
    }
  }
  done = true;
  typist.join();
  sink_owner.join();
  EXPECT_EQ(sink_.text(), sent);
  EXPECT_EQ(serial_.counters().tx_dropped, 0u);
  EXPECT_EQ(serial_.counters().overruns, 0u);
  EXPECT_EQ(irq_.redundant(), 0);
}

// A sink that waits, as a file on a disk that hangs does.
class StuckSink : public SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    waiting_ = true;
    changed_.SignalAll();
    while (!released_) changed_.Wait(&mutex_);
    return bytes.size();
  }
  void AwaitWriter() {
    base::MutexLock lock(&mutex_);
    while (!waiting_) changed_.Wait(&mutex_);
  }
  void Release() {
    base::MutexLock lock(&mutex_);
    released_ = true;
    changed_.SignalAll();
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST(SerialCountersTest, AreThereWhileTheSinkIsStuck) {
  StuckSink sink;
  FakeIrqLine irq;
  Serial serial({"ttyS0", nullptr}, sink, irq);
  std::thread vcpu([&] {
    const uint8_t byte = 'x';
    serial.Write(kData, absl::MakeConstSpan(&byte, 1));
  });
  sink.AwaitWriter();
  EXPECT_EQ(serial.counters().tx_bytes, 0u);
  sink.Release();
  vcpu.join();
  EXPECT_EQ(serial.counters().tx_bytes, 1u);
}

}  // namespace
}  // namespace cloister::devices

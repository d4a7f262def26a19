// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/bus.h"

#include <array>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Reads give the id; remembers the last access.
class FakeDevice : public BusDevice {
 public:
  FakeDevice(std::string name, uint8_t id) : name_(std::move(name)), id_(id) {}
  absl::string_view name() const override { return name_; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override {
    base::MutexLock lock(&mutex_);
    offset_ = offset;
    for (uint8_t& byte : data) byte = id_;
  }
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override {
    base::MutexLock lock(&mutex_);
    offset_ = offset;
    written_.assign(data.begin(), data.end());
  }
  uint64_t offset() {
    base::MutexLock lock(&mutex_);
    return offset_;
  }
  std::vector<uint8_t> written() {
    base::MutexLock lock(&mutex_);
    return written_;
  }

 private:
  const std::string name_;
  const uint8_t id_;
  base::Mutex mutex_;
  uint64_t offset_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint8_t> written_ ABSL_GUARDED_BY(mutex_);
};

class BusTest : public ::testing::Test {
 protected:
  BusTest()
      : log_([this](base::LogLevel,
                    absl::string_view line) { lines_.emplace_back(line); },
             base::LogLevel::kDebug) {}

  std::vector<std::string> lines_;
  base::Logger log_;
  Bus pio_{Bus::Space::kPio, log_};
  Bus mmio_{Bus::Space::kMmio, log_};
  std::shared_ptr<FakeDevice> a_ = std::make_shared<FakeDevice>("a", 0xaa);
  std::shared_ptr<FakeDevice> b_ = std::make_shared<FakeDevice>("b", 0xbb);
};

TEST_F(BusTest, RoutesByRangeWithOffset) {
  ASSERT_OK(pio_.Insert(0x100, 8, a_));
  ASSERT_OK(pio_.Insert(0x108, 8, b_));
  std::array<uint8_t, 2> data = {};
  EXPECT_TRUE(pio_.Read(0x106, absl::MakeSpan(data)));
  EXPECT_EQ(data[0], 0xaa);
  EXPECT_EQ(a_->offset(), 6u);
  data = {1, 2};
  EXPECT_TRUE(pio_.Write(0x10a, data));
  EXPECT_EQ(b_->offset(), 2u);
  EXPECT_EQ(b_->written(), (std::vector<uint8_t>{1, 2}));
  EXPECT_TRUE(lines_.empty());
}

TEST_F(BusTest, OverlapNamesBothDevices) {
  ASSERT_OK(pio_.Insert(0x100, 0x10, a_));
  for (auto [start, size] : {std::pair<uint64_t, uint64_t>{0x10f, 1},
                             {0xf0, 0x11},
                             {0x100, 0x10},
                             {0, 0x10000},
                             {0x104, 2}}) {
    absl::Status status = pio_.Insert(start, size, b_);
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << start;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("b at [0x"), HasSubstr("a at [0x100, 0x10f]")));
  }
  ASSERT_OK(pio_.Insert(0x110, 1, b_));
  ASSERT_OK(pio_.Insert(0xff, 1, b_));
}

TEST_F(BusTest, RangesMustFitTheSpace) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(pio_.Insert(0x100, 0, a_).code(), invalid);
  EXPECT_EQ(pio_.Insert(0xffff, 2, a_).code(), invalid);
  EXPECT_EQ(pio_.Insert(0x10000, 1, a_).code(), invalid);
  EXPECT_EQ(pio_.Insert(8, UINT64_MAX, a_).code(), invalid);
  EXPECT_EQ(mmio_.Insert(UINT64_MAX, 2, a_).code(), invalid);
  EXPECT_EQ(mmio_.Insert(1, UINT64_MAX, nullptr).code(), invalid);
  EXPECT_OK(pio_.Insert(0xffff, 1, a_));
  EXPECT_OK(mmio_.Insert(UINT64_MAX, 1, a_));
  EXPECT_OK(mmio_.Insert(0, UINT64_MAX, b_));
}

TEST_F(BusTest, LastByteOfTheAddressSpaceWorks) {
  ASSERT_OK(mmio_.Insert(UINT64_MAX - 3, 4, a_));
  std::array<uint8_t, 8> data = {};
  EXPECT_TRUE(mmio_.Read(UINT64_MAX, absl::MakeSpan(data).subspan(0, 1)));
  EXPECT_EQ(a_->offset(), 3u);
  EXPECT_FALSE(mmio_.Read(UINT64_MAX, absl::MakeSpan(data).subspan(0, 2)));
  EXPECT_FALSE(mmio_.Read(UINT64_MAX - 3, absl::MakeSpan(data)));
}

TEST_F(BusTest, UnknownAndStraddlingAccessesReadOnesAndAreDropped) {
  ASSERT_OK(pio_.Insert(0x100, 2, a_));
  ASSERT_OK(pio_.Insert(0x102, 2, b_));
  std::array<uint8_t, 4> data = {};
  EXPECT_FALSE(pio_.Read(0x200, absl::MakeSpan(data)));
  EXPECT_EQ(data, (std::array<uint8_t, 4>{0xff, 0xff, 0xff, 0xff}));
  data = {};
  EXPECT_FALSE(pio_.Read(0x101, absl::MakeSpan(data).subspan(0, 2)));
  EXPECT_EQ(data, (std::array<uint8_t, 4>{0xff, 0xff, 0, 0}));
  EXPECT_FALSE(pio_.Write(0x100, data));
  EXPECT_TRUE(a_->written().empty());
  EXPECT_TRUE(b_->written().empty());
  EXPECT_EQ(pio_.counters().unknown_reads, 2u);
  EXPECT_EQ(pio_.counters().unknown_writes, 1u);
}

TEST_F(BusTest, EachUnknownAddressIsLoggedOnceAndNotForEver) {
  uint8_t byte = 0;
  for (int i = 0; i < 3; ++i) pio_.Read(0x80, absl::MakeSpan(&byte, 1));
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_THAT(lines_[0], HasSubstr("read of unknown port 0x80"));
  for (uint64_t port = 0; port < 0x10000; ++port) {
    pio_.Write(port, absl::MakeConstSpan(&byte, 1));
  }
  EXPECT_EQ(lines_.size(), 128u);
  EXPECT_THAT(lines_.back(), HasSubstr("only counted"));
  EXPECT_EQ(pio_.counters().unknown_writes, 0x10000u);
}

TEST_F(BusTest, EmptyAccessesDoNothing) {
  ASSERT_OK(pio_.Insert(0x100, 2, a_));
  EXPECT_FALSE(pio_.Read(0x100, {}));
  EXPECT_FALSE(pio_.Write(0x100, {}));
  EXPECT_EQ(pio_.counters().unknown_reads, 0u);
}

TEST_F(BusTest, RemoveFreesRangeAndDevice) {
  ASSERT_OK(pio_.Insert(0x100, 2, a_));
  ASSERT_OK(pio_.Insert(0x200, 2, a_));
  ASSERT_OK(pio_.Remove(0x100));
  EXPECT_EQ(pio_.Remove(0x100).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pio_.Remove(0x201).code(), absl::StatusCode::kNotFound);
  uint8_t byte;
  EXPECT_FALSE(pio_.Read(0x100, absl::MakeSpan(&byte, 1)));
  EXPECT_TRUE(pio_.Read(0x200, absl::MakeSpan(&byte, 1)));
  ASSERT_OK(pio_.Remove(0x200));
  EXPECT_EQ(a_.use_count(), 1);
}

TEST_F(BusTest, MoveIsAllOrNothing) {
  ASSERT_OK(mmio_.Insert(0x1000, 0x1000, a_));
  ASSERT_OK(mmio_.Insert(0x4000, 0x1000, b_));
  EXPECT_EQ(mmio_.Move(0x1000, 0x3001).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(mmio_.Move(0x1000, UINT64_MAX - 1).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(mmio_.Move(0x2000, 0x9000).code(), absl::StatusCode::kNotFound);
  uint8_t byte = 0;
  EXPECT_TRUE(mmio_.Read(0x1fff, absl::MakeSpan(&byte, 1)));
  // Onto a range that overlaps its own old place.
  ASSERT_OK(mmio_.Move(0x1000, 0x1800));
  EXPECT_FALSE(mmio_.Read(0x17ff, absl::MakeSpan(&byte, 1)));
  EXPECT_TRUE(mmio_.Read(0x27ff, absl::MakeSpan(&byte, 1)));
  EXPECT_EQ(a_->offset(), 0xfffu);
}

TEST_F(BusTest, DeviceMayChangeTheBusFromAnAccess) {
  class Mover : public BusDevice {
   public:
    explicit Mover(Bus& bus) : bus_(bus) {}
    absl::string_view name() const override { return "mover"; }
    void Read(uint64_t, absl::Span<uint8_t> data) override { data[0] = 0; }
    void Write(uint64_t, absl::Span<const uint8_t>) override {
      EXPECT_OK(bus_.Remove(0x300));
    }

   private:
    Bus& bus_;
  };
  auto mover = std::make_shared<Mover>(pio_);
  ASSERT_OK(pio_.Insert(0x300, 1, std::move(mover)));
  uint8_t byte = 0;
  EXPECT_TRUE(pio_.Write(0x300, absl::MakeConstSpan(&byte, 1)));
  EXPECT_FALSE(pio_.Write(0x300, absl::MakeConstSpan(&byte, 1)));
}

// The bus as anybody would write it: which device owns which port.
class NaiveBus {
 public:
  bool Insert(uint64_t start, uint64_t size, uint8_t id) {
    if (size == 0 || start + size > kPorts) return false;
    for (uint64_t i = start; i < start + size; ++i) {
      if (owner_[i] != 0) return false;
    }
    for (uint64_t i = start; i < start + size; ++i) owner_[i] = id;
    ranges_[start] = {size, id};
    return true;
  }
  bool Remove(uint64_t start) {
    auto it = ranges_.find(start);
    if (it == ranges_.end()) return false;
    std::fill_n(owner_.begin() + start, it->second.first, 0);
    ranges_.erase(it);
    return true;
  }
  bool Move(uint64_t start, uint64_t to) {
    auto it = ranges_.find(start);
    if (it == ranges_.end()) return false;
    auto [size, id] = it->second;
    Remove(start);
    if (Insert(to, size, id)) return true;
    Insert(start, size, id);
    return false;
  }
  // The id that a read of `size` bytes gives; 0xff if none. Ids are unique to a
  // range, so equal owners mean one range.
  uint8_t Read(uint64_t address, size_t size) const {
    for (uint64_t i = address; i < address + size; ++i) {
      if (i >= kPorts || owner_[i] == 0 || owner_[i] != owner_[address]) {
        return 0xff;
      }
    }
    return owner_[address];
  }

 private:
  static constexpr uint64_t kPorts = 0x10000;
  std::array<uint8_t, kPorts> owner_ = {};
  std::map<uint64_t, std::pair<uint64_t, uint8_t>> ranges_;
};

TEST_F(BusTest, BehavesLikeTheNaiveModel) {
  std::mt19937 random(20240607);
  auto draw = [&](uint64_t limit) { return random() % limit; };
  auto naive = std::make_unique<NaiveBus>();
  uint8_t next_id = 1;
  constexpr uint64_t kBase = 0xff00;  // The top, where ranges leave the space.
  int inserted = 0, moved = 0, hits = 0;
  for (int step = 0; step < 40000; ++step) {
    const uint64_t start = kBase + draw(0x120);
    switch (draw(8)) {
      case 0: {
        const uint64_t size = draw(24);
        const bool want = naive->Insert(start, size, next_id);
        auto device = std::make_shared<FakeDevice>("d", next_id);
        ASSERT_EQ(pio_.Insert(start, size, device).ok(), want) << step;
        if (want) next_id = next_id == 0xfe ? 1 : next_id + 1;
        inserted += want;
        break;
      }
      case 1:
        ASSERT_EQ(pio_.Remove(start).ok(), naive->Remove(start)) << step;
        break;
      case 2: {
        const uint64_t to = kBase + draw(0x120);
        const bool want = naive->Move(start, to);
        ASSERT_EQ(pio_.Move(start, to).ok(), want) << step;
        moved += want;
        break;
      }
      default: {
        std::array<uint8_t, 8> data = {};
        const size_t size = 1 + draw(8);
        const uint8_t want = naive->Read(start, size);
        ASSERT_EQ(pio_.Read(start, absl::MakeSpan(data).subspan(0, size)),
                  want != 0xff)
            << step;
        for (size_t i = 0; i < size; ++i) ASSERT_EQ(data[i], want) << step;
        hits += want != 0xff;
      }
    }
  }
  // The walk exercised what it is meant to.
  EXPECT_GT(inserted, 300);
  EXPECT_GT(moved, 100);
  EXPECT_GT(hits, 1000);
}

TEST_F(BusTest, ReadersSeeOneDeviceOrNoneWhileAnotherThreadChangesIt) {
  ASSERT_OK(mmio_.Insert(0x10000, 0x100, b_));
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::atomic<uint64_t> reads{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop.load()) {
        std::array<uint8_t, 4> data = {};
        mmio_.Read(0x1000, absl::MakeSpan(data));
        for (uint8_t byte : data) {
          if (byte != data[0] || (byte != 0xaa && byte != 0xff)) ++bad;
        }
        mmio_.Read(0x10000, absl::MakeSpan(data));
        if (data[3] != 0xbb) ++bad;
        ++reads;
      }
    });
  }
  for (int i = 0; i < 300 || reads.load() < 300; ++i) {
    ASSERT_OK(mmio_.Insert(0x1000, 4, std::make_shared<FakeDevice>("t", 0xaa)));
    ASSERT_OK(mmio_.Move(0x1000, 0x2000));
    ASSERT_OK(mmio_.Remove(0x2000));
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(bad.load(), 0);
}

}  // namespace
}  // namespace cloister::devices

// SPDX-License-Identifier: Apache-2.0
//
// What much converting costs and leaves behind: pages backed twice, the states
// after random conversions, other vCPUs' speed, the monitor's memory. Small by
// default; CLOISTER_SOAK=1 makes the sizes those of the requirements.
#include <array>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/tests/microguest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using Op = Microguest::Op;
using memory::BackingSide;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;
using std::chrono::milliseconds;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kData = 2 * kMiB;
constexpr uint64_t kPrivate = Microguest::kPrivateAttribute;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

std::unique_ptr<Microguest> Make(const MicroguestOptions& options) {
  auto guest = Microguest::Create(options);
  EXPECT_OK(guest);
  return guest.ok() ? *std::move(guest) : nullptr;
}

std::vector<bool> Backed(Microguest& guest, BackingSide side,
                         const GuestRange& range) {
  std::vector<bool> pages(range.size() / kPageSize);
  EXPECT_OK(
      guest.backend().ForEachBacked(side, range, [&](const GuestRange& part) {
        for (uint64_t at = 0; at < part.size(); at += kPageSize) {
          pages[(part.start().value() - range.start().value() + at) /
                kPageSize] = true;
        }
      }));
  return pages;
}

// Pages of `range` that memory backs on both sides.
uint64_t BackedTwice(Microguest& guest, const GuestRange& range) {
  const std::vector<bool> shared = Backed(guest, BackingSide::kShared, range);
  const std::vector<bool> hidden = Backed(guest, BackingSide::kPrivate, range);
  uint64_t pages = 0;
  for (size_t i = 0; i < shared.size(); ++i) {
    pages += shared[i] && hidden[i] ? 1 : 0;
  }
  return pages;
}

// A field of a /proc file such as "VmRSS:", in bytes.
uint64_t ProcBytes(const char* file, const std::string& field) {
  std::ifstream lines(file);
  std::string word;
  uint64_t kib = 0;
  while (lines >> word) {
    if (word == field && lines >> kib) return kib * 1024;
  }
  ADD_FAILURE() << file << " has no " << field;
  return 0;
}

uint64_t Rss() { return ProcBytes("/proc/self/status", "VmRSS:"); }

TEST(MicroguestLoadTest, NoPageIsBackedTwice) {
  const uint64_t size = (Soak() ? 64 : 8) * kMiB;
  const int rounds = Soak() ? 10 : 3;
  const uint64_t pages = size / kPageSize;
  MicroguestOptions options;
  options.memory = kData + size + 2 * kMiB;
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  const GuestRange outside_low = Range(kMiB, options.memory - kMiB);
  for (int round = 0; round < rounds; ++round) {
    ASSERT_OK(guest->FillPages(kData, pages, 1));
    ASSERT_THAT(guest->Convert(kData, pages, 0), IsOkAndHolds(0u));
    ASSERT_OK(guest->CheckPages(Microguest::SharedVa(kData), pages, 0, 0));
    ASSERT_OK(guest->FillPages(Microguest::SharedVa(kData), pages, 2));
    ASSERT_THAT(guest->Convert(kData, pages, kPrivate), IsOkAndHolds(0u));
    ASSERT_OK(guest->CheckPages(kData, pages, 0, 0));
  }
  ASSERT_OK(guest->Reconcile());
  EXPECT_EQ(BackedTwice(*guest, outside_low), 0u);

  // The check sees what it looks for: strays through the private view.
  ASSERT_THAT(guest->Convert(kData, 16, 0), IsOkAndHolds(0u));
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(kData), 16, 3));
  ASSERT_OK(guest->FillPages(kData, 5, 4));
  EXPECT_EQ(BackedTwice(*guest, outside_low), 5u);
  // So do the statistics, once somebody looks.
  EXPECT_EQ(guest->broker().stats().double_backed_bytes, 0u);
  ASSERT_OK(guest->broker().SurveyFor(std::chrono::minutes(1)));
  EXPECT_EQ(guest->broker().stats().double_backed_bytes, 5 * kPageSize);
  // Beside a guest that is alive they are only counted.
  ASSERT_OK_AND_ASSIGN(auto counted, guest->broker().Reconcile());
  EXPECT_EQ(counted.private_bytes, 5 * kPageSize);
  EXPECT_TRUE(counted.counted_only);
  EXPECT_EQ(BackedTwice(*guest, outside_low), 5u);
  ASSERT_OK_AND_ASSIGN(auto report, guest->Reconcile());
  EXPECT_EQ(report.private_bytes, 5 * kPageSize);
  EXPECT_EQ(report.freed_bytes, 5 * kPageSize);
  EXPECT_EQ(guest->broker().stats().double_backed_bytes, 0u);
  EXPECT_EQ(BackedTwice(*guest, outside_low), 0u);
  EXPECT_OK(guest->CheckPages(Microguest::SharedVa(kData), 16, 3));
}

// How the vCPUs' random pages lie: each its own, side by side or interleaved.
struct Layout {
  const char* name;
  bool interleaved;
};

class RandomTest : public ::testing::TestWithParam<Layout> {};

TEST_P(RandomTest, GuestMapAndAttributesAgree) {
  constexpr uint32_t kCpus = 3;
  constexpr uint64_t kPages = 256;  // each
  MicroguestOptions options;
  options.cpus = kCpus;
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  const bool interleaved = GetParam().interleaved;
  const uint64_t stride = interleaved ? kCpus * kPageSize : kPageSize;
  auto start = [&](uint32_t cpu) {
    return kData + cpu * kPageSize * (interleaved ? 1 : kPages);
  };
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    const uint64_t seed = 0x9e3779b97f4a7c15 * (cpu + 1);
    std::cout << "vCPU " << cpu << ": seed " << seed << "\n";
    guest->Begin(cpu, {.op = Op::kRandom,
                       .address = start(cpu),
                       .count = kPages,
                       .value = Microguest::kRecords + cpu * kPages,
                       .stride = stride,
                       .delta = interleaved ? uint64_t{0} : 7,
                       .seed = seed});
  }
  // A whole minute at full size.
  std::this_thread::sleep_for(milliseconds(Soak() ? 60000 : 1000));
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) guest->Stop(cpu);
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    ASSERT_OK_AND_ASSIGN(auto result, guest->Wait(cpu));
    EXPECT_EQ(result.result, 0u) << "a request failed";
    EXPECT_EQ(result.seen, 0u) << "content was lost or kept wrongly";
    EXPECT_GT(result.progress, 100u);
    std::cout << "vCPU " << cpu << ": " << result.progress << " conversions\n";
  }
  EXPECT_TRUE(guest->Faults().empty());

  // The record and the map, then what an access through view A meets.
  std::vector<uint64_t> private_pages;
  std::vector<uint64_t> all_pages;
  for (uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    for (uint64_t i = 0; i < kPages; ++i) {
      const uint64_t gpa = start(cpu) + i * stride;
      uint8_t record = 0;
      ASSERT_OK(guest->memory().Read(
          GuestAddress(Microguest::kRecords + cpu * kPages + i),
          absl::MakeSpan(&record, 1)));
      const PageState state = guest->states().Get(GuestAddress(gpa));
      EXPECT_EQ(state, record == 1 ? PageState::kShared : PageState::kPrivate);
      if (state == PageState::kPrivate) private_pages.push_back(gpa);
      all_pages.push_back(gpa);
    }
  }
  EXPECT_GT(private_pages.size(), 0u);
  EXPECT_LT(private_pages.size(), all_pages.size());
  EXPECT_EQ(guest->states().bytes(PageState::kShared),
            (all_pages.size() - private_pages.size()) * kPageSize);
  for (uint64_t gpa : all_pages) {
    ASSERT_OK(guest->Run(
        0,
        {.op = Op::kCheck, .address = Microguest::SharedVa(gpa), .count = 1}));
  }
  std::vector<uint64_t> faulted;
  for (const kvm::MemoryFaultExit& fault : guest->Faults()) {
    faulted.push_back(fault.address.value());
  }
  EXPECT_EQ(faulted, private_pages);
}

INSTANTIATE_TEST_SUITE_P(Layouts, RandomTest,
                         ::testing::Values(Layout{"SideBySide", false},
                                           Layout{"Interleaved", true}),
                         [](const auto& info) { return info.param.name; });

// How far vCPU 0's counter gets while vCPU 1 does `other`.
uint64_t CounterBeside(Microguest& guest, const Microguest::Command& other,
                       milliseconds time) {
  guest.Begin(1, other);
  guest.Begin(0, {.op = Op::kCount});
  std::this_thread::sleep_for(time);
  guest.Stop(0);
  guest.Stop(1);
  auto counter = guest.Wait(0);
  auto beside = guest.Wait(1);
  EXPECT_OK(counter);
  EXPECT_OK(beside);
  if (!counter.ok() || !beside.ok()) return 0;
  EXPECT_EQ(beside->result, 0u);
  EXPECT_GT(beside->progress, 0u);
  std::cout << "beside " << beside->progress << " rounds: counter "
            << counter->progress << "\n";
  return counter->progress;
}

TEST(MicroguestLoadTest, ConvertingIsFairAndMemoryStaysFlat) {
  MicroguestOptions options;
  options.cpus = 2;
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  const milliseconds time(Soak() ? 10000 : 500);
  const Microguest::Command toggle = {
      .op = Op::kToggle, .address = kData, .count = 64};
  CounterBeside(*guest, toggle, time);  // everything allocated once
  const uint64_t before = ProcBytes("/proc/self/status", "RssAnon:");
  uint64_t busy = 0, converting = 0;
  for (int i = 0; i < 3; ++i) {
    busy += CounterBeside(*guest, {.op = Op::kCount}, time);
    converting += CounterBeside(*guest, toggle, time);
  }
  const uint64_t after = ProcBytes("/proc/self/status", "RssAnon:");
  std::cout << "counter beside a converting vCPU: "
            << static_cast<double>(converting) / static_cast<double>(busy)
            << " of its rate beside a busy one; the monitor grew by "
            << static_cast<int64_t>(after - before) / 1024 << " KiB\n";
  EXPECT_GE(converting, busy / 4);
  EXPECT_LT(after, before + 256 * 1024);
}

TEST(MicroguestLoadTest, LargeGuestsCostLittle) {
  constexpr uint64_t kTouched = 50 * kMiB;  // on each side
  constexpr uint64_t kPages = kTouched / kPageSize;
  const uint64_t memory = (Soak() ? uint64_t{16384} : 2048) * kMiB;
  const uint64_t slab_before = ProcBytes("/proc/meminfo", "Slab:");
  const uint64_t before = Rss();
  MicroguestOptions options;
  options.memory = memory;
  auto guest = Make(options);
  ASSERT_NE(guest, nullptr);
  const uint64_t slab = ProcBytes("/proc/meminfo", "Slab:") - slab_before;
  const uint64_t shared = memory - 64 * kMiB;
  ASSERT_OK(guest->FillPages(memory / 2, kPages, 1));
  ASSERT_THAT(guest->Convert(shared, kPages, 0), IsOkAndHolds(0u));
  ASSERT_OK(guest->FillPages(Microguest::SharedVa(shared), kPages, 1));
  ASSERT_OK(guest->CheckPages(memory / 2, kPages, 1));
  const uint64_t cost = Rss() - before;
  std::cout << "resident: " << cost / 1024 << " KiB with "
            << 2 * kTouched / 1024 << " KiB touched, half of it shared; "
            << "kernel slab for attributes and slots: " << slab / 1024
            << " KiB\n";
  // Private pages are no mappings of the monitor's; shared ones may count.
  EXPECT_LT(cost, kTouched + 8 * kMiB);
}

}  // namespace
}  // namespace cloister::tests

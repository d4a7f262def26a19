// SPDX-License-Identifier: Apache-2.0
//
// A PageBackend that is a naive model, and fails when told to (test only).
#ifndef CLOISTER_MEMORY_FAKE_BACKEND_H_
#define CLOISTER_MEMORY_FAKE_BACKEND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cloister/base/mutex.h"
#include "cloister/memory/page_backend.h"

namespace cloister::memory {

// What happened, in order. Thread-safe.
class StepLog {
 public:
  void Add(std::string step);
  std::vector<std::string> Take();

 private:
  base::Mutex mutex_;
  std::vector<std::string> steps_ ABSL_GUARDED_BY(mutex_);
};

// One attribute and one word of content on each side for every page. Pages
// that nobody wrote are not backed and read as 0. Thread-safe; remembers calls
// that break the contract of PageBackend.
class FakeBackend : public PageBackend {
 public:
  enum class Method { kSet, kReserve, kFreeShared, kFreePrivate, kFind };

  struct Page {
    PageState attribute = PageState::kNotRam;
    std::optional<uint64_t> shared;  // backed with this content
    std::optional<uint64_t> private_;
    bool operator==(const Page&) const = default;
  };

  FakeBackend(ConversionContent content, uint64_t chunk, StepLog* log)
      : content_(content), chunk_(chunk), log_(log) {}

  absl::string_view name() const override { return "fake"; }
  ConversionContent content() const override { return content_; }
  uint64_t preferred_chunk() const override { return chunk_; }
  PageProgress SetAttributes(const GuestRange& range, PageState to) override;
  absl::Status ReserveShared(const GuestRange& range) override;
  absl::Status FreeShared(const GuestRange& range) override;
  absl::Status FreePrivate(const GuestRange& range) override;
  absl::Status ForEachBacked(
      BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) override;

  // From now on the `first`-th call (from 0) and the `count - 1` after it fail
  // with `status`: of `method`, or of any if that is nullopt. A SetAttributes
  // that fails has changed the first half of its pages.
  void FailCalls(std::optional<Method> method, uint64_t first, uint64_t count,
                 absl::Status status);
  void FailNothing() { FailCalls(std::nullopt, 0, 0, absl::OkStatus()); }
  // Whether a call failed since FailCalls.
  bool failed();
  // Called inside SetAttributes, without locks; set it before any call.
  std::function<void(const GuestRange&, PageState)> during_set;

  // The guest's own access, which goes where the attribute says.
  void GuestWrite(GuestAddress page, uint64_t value);
  uint64_t GuestRead(GuestAddress page);
  // Backs one side behind everybody's back.
  void Back(BackingSide side, GuestAddress page, uint64_t value);
  Page Get(GuestAddress page);
  uint64_t calls(Method method);
  // Overlapping calls, misaligned ranges, bad states.
  std::vector<std::string> violations();

 private:
  // Begins a call: OK, or the failure to report.
  absl::Status Begin(Method method, const GuestRange& range,
                     const std::string& step);
  void End(const GuestRange& range);
  absl::Status Free(BackingSide side, const GuestRange& range);
  template <typename Visit>
  void ForPages(const GuestRange& range, Visit visit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static std::optional<uint64_t>& Side(Page& page, BackingSide side) {
    return side == BackingSide::kShared ? page.shared : page.private_;
  }
  // With one backing, everything is on what is called the shared side here.
  BackingSide SideOf(PageState state) const {
    return state == PageState::kPrivate && content_ == ConversionContent::kLost
               ? BackingSide::kPrivate
               : BackingSide::kShared;
  }

  const ConversionContent content_;
  const uint64_t chunk_;
  StepLog* const log_;  // may be null

  base::Mutex mutex_;
  std::map<uint64_t, Page> pages_ ABSL_GUARDED_BY(mutex_);  // by address
  std::vector<GuestRange> busy_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mutex_);
  std::array<uint64_t, 5> calls_ ABSL_GUARDED_BY(mutex_) = {};
  std::optional<Method> fail_method_ ABSL_GUARDED_BY(mutex_);
  uint64_t fail_in_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t fail_count_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status fail_status_ ABSL_GUARDED_BY(mutex_);
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_FAKE_BACKEND_H_

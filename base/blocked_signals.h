// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_BLOCKED_SIGNALS_H_
#define CLOISTER_BASE_BLOCKED_SIGNALS_H_

#include <csignal>

namespace cloister::base {

// Blocks every signal in this thread but those that report its own faults, and
// restores its mask when destroyed: threads started meanwhile inherit it, so
// that the application's signals go to the application's threads. A fault whose
// signal is blocked would end the process without its handler.
class BlockedSignals {
 public:
  BlockedSignals();
  ~BlockedSignals();
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace cloister::base

#endif  // CLOISTER_BASE_BLOCKED_SIGNALS_H_

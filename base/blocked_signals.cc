// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/blocked_signals.h"

#include <pthread.h>

#include <initializer_list>

namespace cloister::base {

BlockedSignals::BlockedSignals() {
  sigset_t set;
  ::sigfillset(&set);
  for (int fault :
       {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
    ::sigdelset(&set, fault);
  }
  ::pthread_sigmask(SIG_SETMASK, &set, &before_);
}

BlockedSignals::~BlockedSignals() {
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace cloister::base

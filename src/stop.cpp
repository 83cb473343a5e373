#include <dmaflow/stop.hpp>

#include "sys/sys.hpp"

#include <csignal>

namespace dmaflow {

Result<Fd> stop_on_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);

  const int number = sys::signalfd(signals);
  if (number < 0) return std::unexpected(Error::os(-number, "signalfd"));
  Fd fd = Fd::adopt(number);
  if (const int result = sys::block_signals(signals); result < 0) {
    return std::unexpected(Error::os(-result, "pthread_sigmask"));
  }
  return fd;
}

}  // namespace dmaflow

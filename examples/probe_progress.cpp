#include "probe_progress.hpp"

#include <fmt/core.h>

#include <string>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

Progress::Progress(int stop_fd)
    : stop_fd_(stop_fd),
      stderr_(dmaflow::Fd::adopt(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3))),
      is_terminal_(::isatty(STDERR_FILENO) != 0) {
  const auto nowhere = dmaflow::Fd::adopt(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (stderr_ && nowhere) ::dup2(nowhere.get(), STDERR_FILENO);
}

Progress::~Progress() {
  erase();
  if (stderr_) ::dup2(stderr_.get(), STDERR_FILENO);
}

bool Progress::next(std::string_view what) {
  pollfd stop{.fd = stop_fd_, .events = POLLIN, .revents = 0};
  if (::poll(&stop, 1, 0) > 0) return false;
  if (is_terminal_) say(fmt::format("\r\033[K{} ...", what));
  return true;
}

void Progress::erase() {
  if (is_terminal_) say("\r\033[K");
}

void Progress::say(std::string_view text) const {
  if (::write(stderr_.get(), text.data(), text.size()) < 0) return;  // the progress line is not essential
}

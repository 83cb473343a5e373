// own_loop: shows a camera for 2 seconds, in a loop of the program's own that also has other work to wait for.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

#include <poll.h>
#include <sys/timerfd.h>

int main() try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value()).value();
  const auto timer = dmaflow::Fd::adopt(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));  // the other work
  const itimerspec two_seconds{.it_interval = {}, .it_value = {.tv_sec = 2, .tv_nsec = 0}};
  timerfd_settime(timer.get(), 0, &two_seconds, nullptr);

  pipeline.start().value();
  while (!pipeline.ended()) {
    pollfd waits[2] = {{pipeline.poll_fd().value(), POLLIN, 0}, {timer.get(), POLLIN, 0}};
    if (poll(waits, 2, -1) < 0) break;
    if (waits[0].revents != 0) pipeline.dispatch().value();
    if (waits[1].revents != 0) break;
  }
  pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(2))).value();
  std::cout << pipeline.stats().streams[0].branches[0].presented << " frames shown\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}

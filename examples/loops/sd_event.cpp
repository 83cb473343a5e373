// Camera to display in systemd's event loop, which services use. It ends after the number of seconds in its argument,
// or on Ctrl-C.
#include <dmaflow/dmaflow.hpp>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/epoll.h>
#include <systemd/sd-event.h>

namespace {

struct Player {
  dmaflow::Pipeline pipeline;
  dmaflow::Result<void> outcome;
};

int on_frames(sd_event_source* source, int /*fd*/, std::uint32_t /*events*/, void* data) {
  auto& player = *static_cast<Player*>(data);
  player.outcome = player.pipeline.dispatch();
  if (player.outcome && !player.pipeline.ended()) return 0;
  return sd_event_exit(sd_event_source_get_event(source), player.outcome ? 0 : -EIO);
}

int on_time(sd_event_source* source, std::uint64_t /*usec*/, void* /*data*/) {
  return sd_event_exit(sd_event_source_get_event(source), 0);
}

}  // namespace

int main(int argc, char** argv) try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  Player player;
  player.pipeline.connect(*camera, *screen).value();
  player.pipeline.start().value();
  sd_event* loop = nullptr;
  sd_event_new(&loop);
  sd_event_add_io(loop, nullptr, player.pipeline.poll_fd().value(), EPOLLIN, on_frames, &player);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  sd_event_add_signal(loop, nullptr, SIGINT, nullptr, nullptr);  // nullptr: it ends the loop
  if (argc > 1) {
    const auto microseconds = static_cast<std::uint64_t>(std::atof(argv[1]) * 1e6);
    sd_event_add_time_relative(loop, nullptr, CLOCK_MONOTONIC, microseconds, 0, on_time, nullptr);
  }
  sd_event_loop(loop);

  const auto stopped = player.pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(2)));
  sd_event_unref(loop);
  player.outcome.value();
  stopped.value();
  std::printf("%d frames shown\n",
              static_cast<int>(player.pipeline.stats().streams.front().branches.front().presented));
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::fprintf(stderr, "error: %s\n", failure.error().message().c_str());
  return 1;
}

// Camera to display in libuv's loop, which Node.js and many servers use. It ends after the number of seconds in its
// argument, or on Ctrl-C.
#include <dmaflow/dmaflow.hpp>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <uv.h>

namespace {

struct Player {
  dmaflow::Pipeline pipeline;
  uv_loop_t loop{};
  dmaflow::Result<void> outcome;
};

void on_frames(uv_poll_t* poll, int /*status*/, int /*events*/) {
  auto& player = *static_cast<Player*>(poll->data);
  player.outcome = player.pipeline.dispatch();
  if (!player.outcome || player.pipeline.ended()) uv_stop(&player.loop);
}

}  // namespace

int main(int argc, char** argv) try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  Player player;
  player.pipeline.connect(*camera, *screen).value();
  player.pipeline.start().value();
  uv_loop_init(&player.loop);
  uv_poll_t frames{};
  uv_poll_init(&player.loop, &frames, player.pipeline.poll_fd().value());
  frames.data = &player;
  uv_poll_start(&frames, UV_READABLE, on_frames);
  uv_signal_t interrupt{};
  uv_signal_init(&player.loop, &interrupt);
  uv_signal_start(&interrupt, [](uv_signal_t* self, int) { uv_stop(self->loop); }, SIGINT);
  uv_timer_t end{};
  uv_timer_init(&player.loop, &end);
  const auto milliseconds = static_cast<std::uint64_t>(argc > 1 ? std::atof(argv[1]) * 1000 : 0);
  if (milliseconds > 0) uv_timer_start(&end, [](uv_timer_t* self) { uv_stop(self->loop); }, milliseconds, 0);
  uv_run(&player.loop, UV_RUN_DEFAULT);

  const auto stopped = player.pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(2)));
  uv_close(reinterpret_cast<uv_handle_t*>(&frames), nullptr);
  uv_close(reinterpret_cast<uv_handle_t*>(&interrupt), nullptr);
  uv_close(reinterpret_cast<uv_handle_t*>(&end), nullptr);
  uv_run(&player.loop, UV_RUN_DEFAULT);
  uv_loop_close(&player.loop);
  player.outcome.value();
  stopped.value();
  std::printf("%d frames shown\n",
              static_cast<int>(player.pipeline.stats().streams.front().branches.front().presented));
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::fprintf(stderr, "error: %s\n", failure.error().message().c_str());
  return 1;
}

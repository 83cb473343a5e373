// Camera to display in GLib's main loop, which programs with GTK or GStreamer use. It ends after the number of seconds
// in its argument, or on Ctrl-C.
#include <dmaflow/dmaflow.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <glib-unix.h>
#include <glib.h>

namespace {

struct Player {
  dmaflow::Pipeline pipeline;
  GMainLoop* loop = g_main_loop_new(nullptr, FALSE);
  dmaflow::Result<void> outcome;
};

gboolean on_frames(gint /*fd*/, GIOCondition /*condition*/, gpointer data) {
  auto& player = *static_cast<Player*>(data);
  player.outcome = player.pipeline.dispatch();
  if (player.outcome && !player.pipeline.ended()) return G_SOURCE_CONTINUE;
  g_main_loop_quit(player.loop);
  return G_SOURCE_REMOVE;
}

gboolean on_end(gpointer data) {
  g_main_loop_quit(static_cast<Player*>(data)->loop);
  return G_SOURCE_REMOVE;
}

}  // namespace

int main(int argc, char** argv) try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  Player player;
  player.pipeline.connect(*camera, *screen).value();
  player.pipeline.start().value();
  g_unix_fd_add(player.pipeline.poll_fd().value(), G_IO_IN, on_frames, &player);
  g_unix_signal_add(SIGINT, on_end, &player);
  if (argc > 1) g_timeout_add(static_cast<guint>(std::atof(argv[1]) * 1000), on_end, &player);
  g_main_loop_run(player.loop);

  const auto stopped = player.pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(2)));
  player.outcome.value();
  stopped.value();
  std::printf("%d frames shown\n",
              static_cast<int>(player.pipeline.stats().streams.front().branches.front().presented));
  g_main_loop_unref(player.loop);
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::fprintf(stderr, "error: %s\n", failure.error().message().c_str());
  return 1;
}

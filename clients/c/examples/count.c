/* Reads a channel: prints a number for each item that a command sends. */
#include <stdio.h>
#include <string.h>

#include "invoked.h"

int main(void)
{
    invoked_client *client;
    invoked_call *call;
    invoked_message *item;
    invoked_error error = {0};
    const char *body = "{\"items\":3,\"size\":8,\"to\":\"__CHANNEL__:1\"}";
    invoked_channel channel = {.index = 1, .direction = INVOKED_DIRECTION_DOWN};
    invoked_request request = {.command = "bench.count", .content = {.codec = INVOKED_CODEC_JSON, .body = {body, strlen(body)}},
                               .channels = &channel, .channel_count = 1};
    if (invoked_connect(NULL, &client, &error) != 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    int result = invoked_begin(client, &request, &call);
    for (int n = 1; result == 0 && (result = invoked_next(call, 1, INVOKED_FOREVER, &item, &error)) == 1; n++) {
        printf("%d\n", n);
        invoked_message_free(item);
        result = 0;
    }
    if (result == 0)
        result = invoked_wait(call, NULL, &error);
    if (result != 0)
        fprintf(stderr, "%s\n", error.message);
    invoked_call_free(call);
    invoked_close(client);
    return result != 0;
}

/* Sixteen calls at once in a loop of the program's own, with poll. */
#include <poll.h>
#include <stdio.h>

#include "invoked.h"

int main(void)
{
    invoked_client *client;
    invoked_call *calls[16];
    invoked_error error = {0};
    int open = 0, answers = 0;
    if (invoked_connect(NULL, &client, &error) != 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    invoked_request request = {.command = "core.ping", .timeout_ms = 5000};
    while (open < 16 && invoked_begin(client, &request, &calls[open]) == 0)
        open++;
    for (int done = 0; done < open;) {
        struct pollfd wait = {.fd = invoked_fd(client), .events = invoked_events(client)};
        poll(&wait, 1, invoked_timeout(client));
        if (invoked_drive(client) != 0)
            fprintf(stderr, "%s\n", invoked_problem(client));
        done = 0;
        for (int i = 0; i < open; i++)
            done += invoked_is_done(calls[i]);
    }
    for (int i = 0; i < open; i++) {
        answers += invoked_wait(calls[i], NULL, &error) == 0;
        invoked_call_free(calls[i]);
    }
    printf("%d answers\n", answers);
    invoked_close(client);
    return answers != 16;
}
